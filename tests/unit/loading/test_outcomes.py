"""A real run in the simulator's words."""

import math

import pytest

from loading.asking import Reply
from loading.costs import Batch
from loading.outcomes import answers_of, figures_of, instance_of, result_of
from simulation.instance import Device, KeyCosts, Request
from simulation.ledger import Outcome, Record

KEY = "m/64x64"
DEVICE = Device("device", "kind", {KEY: KeyCosts((0.01,), (0.1,), (0.05,))}, max_batch=4)


def reply(index: int, finish: float | None, release: float = 0.0, sent: float | None = None, **more: object) -> Reply:
    outcome = Outcome.REFUSED if finish is None else Outcome.FINISHED
    record = Record(index, 5, outcome=outcome, finish=finish, on_time=finish is not None)
    made = Reply(Request(release, release + 3.0, KEY, 5), record, lambda: 0.0, release if sent is None else sent)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_latency_counts_from_the_planned_moment_however_late_the_client_was() -> None:
    replies = [reply(0, finish=3.0, release=1.0, sent=2.0)]
    result = result_of("p", instance_of(replies, (DEVICE,), closed=False), replies, [])
    assert figures_of(result)["latency_mean"] == pytest.approx(2.0)
    assert answers_of(result.instance, replies)["send_lag_max"] == pytest.approx(1.0)


def test_in_a_closed_loop_the_moment_of_sending_is_the_release() -> None:
    replies = [reply(0, finish=4.0, release=1.0, sent=2.5)]
    instance = instance_of(replies, (DEVICE,), closed=True)
    assert (instance.requests[0].release, instance.requests[0].deadline) == (2.5, 5.5)
    assert figures_of(result_of("p", instance, replies, []))["latency_mean"] == pytest.approx(1.5)


def test_pictures_a_second_are_counted_to_the_last_finish() -> None:
    replies = [reply(0, finish=2.0, release=1.0), reply(1, finish=5.0, release=1.5)]
    instance = instance_of(replies, (DEVICE,), closed=False)
    assert figures_of(result_of("p", instance, replies, []))["images_per_s"] == pytest.approx(2 / 4)


def test_evaluations_and_the_devices_time_come_from_its_batches() -> None:
    batches = [
        Batch("step", KEY, 3, 0.1),
        Batch("step", KEY, 1, 0.1),
        Batch("decode", KEY, 1, 0.2),
        Batch("store", KEY, 1, 9),
    ]
    replies = [reply(0, finish=1.0)]
    result = result_of("p", instance_of(replies, (DEVICE,), closed=False), replies, batches)
    assert (result.evaluations, result.step_batches, result.busy_s) == (4, 2, pytest.approx(0.4))


def test_who_knows_when_was_accepted_with_a_finish_or_refused_with_an_offer() -> None:
    accepted, offered = reply(0, finish=1.0, answered=0.25), reply(1, finish=None, answered=0.75, offers=True)
    silent, bare = reply(2, finish=1.0), reply(3, finish=None, answered=0.5)
    accepted.record.predicted = 1.1
    replies = [accepted, offered, silent, bare]
    answers = answers_of(instance_of(replies, (DEVICE,), closed=False), replies)
    assert (answers["told"], answers["unanswered"], answers["answer_max"]) == (0.5, 1, 0.75)


def test_nothing_at_all_comes_to_nothing() -> None:
    figures = figures_of(result_of("p", instance_of([], (DEVICE,), closed=False), [], []))
    assert figures["images_per_s"] == 0.0
    assert math.isnan(figures["latency_mean"])
