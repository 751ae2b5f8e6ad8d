"""How the guilty row of a batch is found."""

import logging
import weakref
from dataclasses import dataclass

import pytest

from collodion.worker.faults import try_rows


@dataclass(frozen=True)
class Row:
    job_id: str


class Activations:
    """What a model call allocates."""


def test_what_a_batch_had_allocated_is_free_again_before_its_rows_are_tried() -> None:
    allocated: list[weakref.ref[Activations]] = []

    def work(rows: list[Row]) -> None:
        if len(rows) == 1:
            assert allocated[0]() is None
            return
        activations = Activations()
        allocated.append(weakref.ref(activations))
        raise MemoryError

    failures: list[str] = []
    try_rows([Row("a"), Row("b")], work, lambda row, _: failures.append(row.job_id))
    assert allocated
    assert not failures


def test_what_nobody_foresaw_is_logged_once_with_its_job(caplog: pytest.LogCaptureFixture) -> None:
    def work(rows: list[Row]) -> None:
        if Row("bad") in rows:
            raise ValueError("unforeseen")

    failures: list[str] = []
    try_rows([Row("good"), Row("bad")], work, lambda row, _: failures.append(row.job_id))
    assert failures == ["bad"]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.__dict__["job"] == "bad"
    assert caplog.text.count("Traceback") == 1
