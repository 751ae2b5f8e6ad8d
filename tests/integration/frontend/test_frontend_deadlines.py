"""Promises, explanations, counter-offers and tiers through a real frontend, with a scripted scheduler."""

import time

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from collodion.v1 import generation_pb2 as pb
from collodion.v1 import job_pb2
from collodion.wire import jobs, to_frontend

SPEC = jobs.JobSpec(jobs.Parameters("shapes", "a circle", "", 128, 128, 20, "ddim", 3.0, 5, 1), "default", "standard")


def test_tiers_are_listed_as_the_scheduler_has_them(running, asking) -> None:
    standard, batch = asking(running.generation.ListTiers, pb.ListTiersRequest()).result().tiers
    assert (standard.name, standard.is_default, standard.slo.seconds) == ("standard", True, 60)
    assert (batch.name, batch.is_default, batch.WhichOneof("default_slo")) == ("batch", False, None)


def test_a_job_says_what_is_promised_and_why_it_is_not_finished_sooner(running, scheduler, asking) -> None:
    why = to_frontend.Explanation("2 jobs with earlier deadlines run first", ("another worker", "fewer steps"))
    call = asking(running.generation.GetJob, pb.GetJobRequest(job_id="job-1"))
    view = to_frontend.JobView(
        "job-1", SPEC, jobs.JobState.QUEUED, 1_000.5, 2, progress=(), images=(), promised=True, explanation=why
    )
    scheduler.say(to_frontend.JobAnswer(scheduler.hear().call, view))
    job = call.result().job
    assert job.promised
    assert (job.explanation.summary, tuple(job.explanation.remedies)) == (why.summary, why.remedies)


def refusal(call) -> tuple[grpc.StatusCode, dict[str, object]]:
    """The code of a call that failed, and the details of its status by their type."""
    with pytest.raises(grpc.RpcError) as caught:
        call.result()
    found: dict[str, object] = {}
    for packed in rpc_status.from_call(caught.value).details:
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.RetryInfo,
            error_details_pb2.BadRequest,
            job_pb2.CounterOffer,
        ):
            detail = kind()
            if packed.Unpack(detail):
                found[kind.__name__] = detail
    return caught.value.code(), found


@pytest.mark.parametrize("watched", [False, True])
def test_a_deadline_that_cannot_be_promised_is_refused_with_an_offer(running, scheduler, asking, watched) -> None:
    job = {"slo": {"seconds": 3}, "deadline_policy": job_pb2.DEADLINE_POLICY_REFUSE}
    if watched:
        stream = running.generation.Generate(pb.GenerateRequest(job=job), timeout=10)
        call = asking(lambda _, timeout: next(stream), None)
    else:
        call = asking(running.generation.CreateJob, pb.CreateJobRequest(job=job))
    submit = scheduler.submitted()
    assert (submit.spec.slo_s, submit.spec.deadline_policy) == (3.0, jobs.DeadlinePolicy.REFUSE)
    offer = to_frontend.CounterOffer(finish=time.time() + 100, steps=12, tier="batch")
    message = "x" * 100_000  # its offer and itself fit into the metadata all the same
    scheduler.say(to_frontend.Refused(submit.call, jobs.Reason.DEADLINE_INFEASIBLE, message, 4.5, offer))
    code, details = refusal(call)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details["ErrorInfo"].reason == "DEADLINE_INFEASIBLE"
    assert details["RetryInfo"].retry_delay.ToMilliseconds() == 4_500
    told = details["CounterOffer"]
    assert (told.steps, told.tier, told.finish_time.seconds) == (12, "batch", int(offer.finish))
    assert 0 < told.slo.seconds <= 100


def test_a_deadline_for_which_waiting_does_not_help_has_no_retry_info(running, scheduler, asking) -> None:
    call = asking(running.generation.CreateJob, pb.CreateJobRequest())
    number = scheduler.submitted().call
    unspeakable = to_frontend.CounterOffer(finish=float("inf"))
    scheduler.say(to_frontend.Refused(number, jobs.Reason.DEADLINE_INFEASIBLE, "never", offer=unspeakable))
    code, details = refusal(call)
    assert (code, set(details)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, {"ErrorInfo"})


def test_a_full_queue_says_when_to_come_back(running, scheduler, asking) -> None:
    for said_s, told_s in ((2.5, 2.5), (None, 1.0)):
        call = asking(running.generation.CreateJob, pb.CreateJobRequest())
        number = scheduler.submitted().call
        scheduler.say(to_frontend.Refused(number, jobs.Reason.QUEUE_FULL, "60 s of work of yours wait", said_s))
        code, details = refusal(call)
        assert (code, details["ErrorInfo"].reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert details["RetryInfo"].retry_delay.ToMilliseconds() == told_s * 1000
