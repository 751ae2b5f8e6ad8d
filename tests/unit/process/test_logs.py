"""Log lines that machines and people can read."""

import json
import logging

import pytest

from collodion.process.logs import LogFormat, configure_logs


@pytest.fixture(autouse=True)
def _keep_the_loggers_of_the_test_run():
    root, ours = logging.getLogger(), logging.getLogger("collodion")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_a_json_line_carries_what_the_event_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("scheduler", LogFormat.JSON, "info")
    logging.getLogger("collodion.x").info("accepted a job", extra={"job": "01J"})
    line = json.loads(capsys.readouterr().err)
    assert (line["message"], line["job"], line["process"], line["level"]) == (
        "accepted a job",
        "01J",
        "scheduler",
        "info",
    )


def test_a_json_line_stays_one_line_whatever_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("scheduler", LogFormat.JSON, "info")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("collodion.x").exception("it\nbroke")
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert "ValueError: two\nlines" in json.loads(written)["exception"]


def test_a_text_line_shows_the_facts_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("worker", LogFormat.TEXT, "info")
    logging.getLogger("collodion.x").info("stored", extra={"job": "01J"})
    assert capsys.readouterr().err.rstrip().endswith("worker: stored [job=01J]")


def test_libraries_do_not_chatter_when_we_debug(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("worker", LogFormat.TEXT, "debug")
    logging.getLogger("asyncio").debug("chatter")
    logging.getLogger("collodion.x").debug("wanted")
    assert [line.rsplit(" ", 1)[1] for line in capsys.readouterr().err.splitlines()] == ["wanted"]
