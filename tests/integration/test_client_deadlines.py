"""Deadlines, promises, counter-offers and tiers through both clients, against a scripted server."""

import datetime
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from collodion.client import (
    CounterOffer,
    DeadlineInfeasible,
    DeadlinePolicy,
    Explanation,
    JobFailed,
    ServerBusy,
    Tier,
    Warned,
)
from collodion.v1 import generation_pb2, job_pb2
from tests.integration import fake_server as fake
from tests.integration.both_clients import Async, Blocking
from tests.integration.fake_server import JOB_ID, FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture(params=[Blocking(), Async()], ids=["blocking", "asyncio"])
def call(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("policy", ["degrade", DeadlinePolicy.DEGRADE])
def test_what_is_asked_of_a_deadline_reaches_the_server(server: FakeServer, call: Any, policy: Any) -> None:
    server.script("CreateJob", generation_pb2.CreateJobResponse(job=fake.job(promised=True, tier="interactive")))
    job = call(server, "submit", "a fox", deadline_policy=policy, min_steps=3, tier="interactive", slo_s=1.5)
    asked = server.asked("CreateJob")[0].job
    assert (asked.deadline_policy, asked.min_steps) == (job_pb2.DEADLINE_POLICY_DEGRADE, 3)
    assert (asked.tier, asked.slo.ToMilliseconds()) == ("interactive", 1500)
    assert (job.promised, job.tier) == (True, "interactive")


@pytest.mark.parametrize("method", ["submit", "generate", "stream"])
def test_a_deadline_that_cannot_be_promised_is_told_with_its_offer_and_not_tried_again(
    server: FakeServer, call: Any, method: str
) -> None:
    refused = fake.infeasible(0.001, finish_time={"seconds": 1_700_000_000}, slo={"seconds": 8}, steps=2, tier="batch")
    server.script("CreateJob", refused)
    server.script("Generate", [refused])
    with pytest.raises(DeadlineInfeasible, match="cannot be promised") as caught:
        call(server, method, "a fox", slo_s=1, deadline_policy="refuse")
    finish = datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.UTC)
    assert caught.value.offer == CounterOffer(finish, 8.0, 2, "batch")
    assert caught.value.retry_after_s == 0.001
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(server.calls) == 1, "a later deadline is the caller's to accept"


def test_a_refusal_without_any_offer_says_so(server: FakeServer, call: Any) -> None:
    server.script("CreateJob", fake.infeasible(None))
    with pytest.raises(DeadlineInfeasible) as caught:
        call(server, "submit", "a fox")
    assert (caught.value.offer, caught.value.retry_after_s) == (CounterOffer(), None)


def test_a_full_queue_is_tried_again(server: FakeServer, call: Any) -> None:
    full = fake.Error(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "QUEUE_FULL", (fake.retry_info(0.001),))
    server.script("CreateJob", full)
    with pytest.raises(ServerBusy) as caught:
        call(server, "submit", "a fox")
    assert not isinstance(caught.value, DeadlineInfeasible)
    assert len(server.calls) == 3


def test_fewer_steps_are_told_by_a_warning_and_by_the_job(server: FakeServer, call: Any) -> None:
    warning = fake.event(warning=job_pb2.Warning(reason="DEGRADED", message="3 steps instead of 4"))
    granted = fake.job(promised=True)
    granted.parameters.steps = 3
    accepted = fake.event(accepted=job_pb2.Accepted(job=granted))
    server.script("Generate", [accepted, warning, fake.image(), fake.finished()])
    generation = call(server, "generate", "a fox", steps=4, deadline_policy="degrade")
    assert generation.job.parameters.steps == 3
    assert [(one.reason, type(one)) for one in generation.warnings] == [("DEGRADED", Warned)]
    assert (generation.job.promised, generation.deadline_met) == (True, True)


def test_a_hopeless_job_failed_by_its_deadline(server: FakeServer, call: Any) -> None:
    failure = job_pb2.Failure(code=4, reason="HOPELESS", message="its deadline is out of reach")
    server.script("Generate", [fake.accepted(), fake.event(failed=job_pb2.Failed(failure=failure))])
    with pytest.raises(JobFailed) as caught:
        call(server, "generate", "a fox")
    assert (caught.value.reason, caught.value.code) == ("HOPELESS", grpc.StatusCode.DEADLINE_EXCEEDED)


def test_why_a_job_waits_is_told_until_it_has_ended(server: FakeServer, call: Any) -> None:
    explanation = job_pb2.Explanation(summary="2 promised jobs run first", remedies=["fewer steps", "more workers"])
    waiting = generation_pb2.GetJobResponse(job=fake.job(explanation=explanation))
    server.script("GetJob", waiting, generation_pb2.GetJobResponse(job=fake.job(state=job_pb2.JOB_STATE_FINISHED)))
    expected = Explanation("2 promised jobs run first", ("fewer steps", "more workers"))
    assert call(server, "why", JOB_ID) == expected
    assert call(server, "why", JOB_ID) is None


def test_tiers_are_listed_in_the_servers_order(server: FakeServer, call: Any) -> None:
    server.script("ListTiers", fake.tiers())
    assert call(server, "tiers") == (
        Tier("interactive", is_default=False, slo_s=None, slo_scale=2.5, weight=4.0),
        Tier("standard", is_default=True, slo_s=90.0, slo_scale=None, weight=1.0),
        Tier("batch", is_default=False, slo_s=None, slo_scale=None, weight=0.25),
    )
