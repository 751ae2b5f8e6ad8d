"""What is said to ask for a request, and what is written down of the answers."""

import datetime
import math

import pytest

from collodion.client import (
    Accepted,
    Cancelled,
    CounterOffer,
    DeadlineInfeasible,
    Details,
    Failed,
    Failure,
    Finished,
    ServerBusy,
    TimedOut,
    Timings,
)
from collodion.client.jobs import Job
from collodion.v1 import job_pb2
from collodion.wire.jobs import DeadlinePolicy
from loading.asking import Reply, Wish, undated
from simulation.instance import Request
from simulation.ledger import Outcome, Record

REQUEST = Request(1.0, 4.0, "m/64x32", 30, 2, tier="interactive")
TIMINGS = Timings(0.0, 1.0, 0.0, 1.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reply(clock: Clock) -> Reply:
    return Reply(REQUEST, Record(0, 30), clock, sent=1.0)


def accepted(promised: bool = True, predicted_in_s: float | None = None) -> Accepted:
    job = job_pb2.Job(job_id="J", promised=promised, parameters=job_pb2.Parameters(steps=20))
    if predicted_in_s is not None:
        when = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=predicted_in_s)
        job.predicted_finish_time.FromDatetime(when)
    return Accepted("J", None, Job.of(job))


def test_a_request_is_asked_for_as_the_workload_says() -> None:
    options = Wish(seed=2).options(7, REQUEST)
    assert (options["model"], options["width"], options["height"]) == ("m", 64, 32)
    assert (options["steps"], options["images"], options["tier"], options["slo_s"]) == (30, 2, "interactive", 3.0)
    assert (options["deadline_policy"], options["labels"]) == ("refuse", {"request": "7"})


def test_requests_and_seeds_of_a_study_never_ask_for_the_same_picture() -> None:
    seeds = {Wish(seed=seed).options(index, REQUEST)["seed"] for seed in range(5) for index in range(100)}
    assert len(seeds) == 500


def test_a_request_without_a_deadline_brings_no_slo() -> None:
    assert "slo_s" not in Wish().options(0, undated([REQUEST])[0])


def test_only_who_lets_steps_be_lowered_says_how_far() -> None:
    assert "min_steps" not in Wish(DeadlinePolicy.REFUSE, min_steps=10).options(0, REQUEST)
    assert Wish(DeadlinePolicy.DEGRADE, min_steps=10).options(0, REQUEST)["min_steps"] == 10
    assert Wish(DeadlinePolicy.DEGRADE, min_steps=99).options(0, REQUEST)["min_steps"] == 30


def test_what_was_granted_and_promised_is_written_down(reply: Reply, clock: Clock) -> None:
    clock.now = 1.25
    reply.hear(accepted(predicted_in_s=2.0))
    assert reply.answer_s == 0.25
    assert (reply.record.job, reply.record.promised, reply.record.evaluations) == ("J", True, 20)
    assert reply.record.predicted == pytest.approx(3.25, abs=0.1)


def test_whether_it_was_on_time_is_the_servers_word(reply: Reply, clock: Clock) -> None:
    reply.hear(accepted())
    clock.now = 9.0
    reply.hear(Finished("J", None, TIMINGS, deadline_met=True))
    assert (reply.record.outcome, reply.record.finish, reply.record.on_time) == (Outcome.FINISHED, 9.0, True)


def test_failed_and_cancelled_jobs_do_not_finish(reply: Reply) -> None:
    failure = Failure.of(job_pb2.Failure(reason="HOPELESS"))
    reply.hear(Failed("J", None, failure, TIMINGS))
    assert (reply.record.outcome, reply.record.reason, reply.record.finish) == (Outcome.FAILED, "HOPELESS", None)
    reply.hear(Cancelled("J", None, "", TIMINGS))
    assert reply.record.outcome is Outcome.CANCELLED


def test_a_refusal_is_an_answer_and_may_bring_an_offer(reply: Reply, clock: Clock) -> None:
    clock.now = 1.5
    offer = CounterOffer(finish_time=datetime.datetime.now(datetime.UTC))
    reply.failed(DeadlineInfeasible("no", reason="DEADLINE_INFEASIBLE", details=Details(offer=offer)))
    assert (reply.record.outcome, reply.record.reason) == (Outcome.REFUSED, "DEADLINE_INFEASIBLE")
    assert (reply.answer_s, reply.offers) == (0.5, True)


def test_a_full_queue_refuses_without_an_offer(reply: Reply) -> None:
    reply.failed(ServerBusy("full", reason="QUEUE_FULL"))
    assert (reply.record.outcome, reply.offers) == (Outcome.REFUSED, False)


def test_a_server_that_does_not_answer_has_answered_nothing(reply: Reply) -> None:
    reply.failed(TimedOut("silence"))
    assert (reply.record.outcome, reply.record.reason, reply.answer_s) == (Outcome.FAILED, "TimedOut", None)


def test_without_deadlines_there_are_none_to_meet() -> None:
    assert all(math.isinf(each.deadline) for each in undated([REQUEST, REQUEST]))
