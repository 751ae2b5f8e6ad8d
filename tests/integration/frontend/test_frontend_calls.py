"""Unary calls, downloads, models, health and reflection through a real frontend, with a scripted scheduler."""

import concurrent.futures
import hashlib

import grpc
import msgspec
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from collodion.v1 import admin_pb2, admin_pb2_grpc, job_pb2, model_pb2
from collodion.v1 import generation_pb2 as pb
from collodion.wire import jobs, to_frontend, to_scheduler
from collodion.wire.artifacts import DirectoryStore

PARAMETERS = jobs.Parameters("shapes", "a circle", "", 128, 128, 20, "ddim", 3.0, 5, 3)
SPEC = jobs.JobSpec(PARAMETERS, "default", "standard", labels={"a": "b"})
RUNNING = to_frontend.JobView(
    "job-1",
    SPEC,
    jobs.JobState.RUNNING,
    created=1_000.5,
    place=0,
    progress=(
        to_frontend.ImageProgress(0, jobs.Stage.DONE, 20, 20),
        to_frontend.ImageProgress(1, jobs.Stage.DENOISING, 4, 20),
        to_frontend.ImageProgress(2, jobs.Stage.STOPPED, 4, 20),
    ),
    images=(jobs.StoredImage(0, 5, "job-1/0.png", "image/png", 128, 128, 3_000_000, "abc"),),
    deadline=2_000.0,
)


def failed(call, code: grpc.StatusCode, reason: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call.result() if isinstance(call, concurrent.futures.Future) else list(call)
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(caught.value).details[0].Unpack(info)
    assert (caught.value.code(), info.reason, info.domain) == (code, reason, "collodion")


def test_creating_a_job_answers_with_the_job(running, scheduler, asking) -> None:
    call = asking(running.generation.CreateJob, pb.CreateJobRequest(job={"parameters": {"seed": 5}}))
    submit = scheduler.submitted()
    assert not submit.watch
    scheduler.say(to_frontend.JobAnswer(submit.call, RUNNING))
    job = call.result().job
    assert (job.job_id, job.state, job.labels["a"]) == ("job-1", job_pb2.JOB_STATE_RUNNING, "b")
    assert (job.create_time.nanos, job.deadline.seconds, job.HasField("end_time")) == (500_000_000, 2_000, False)
    assert [(one.stage, one.step) for one in job.progress][1] == (job_pb2.STAGE_DENOISING, 4)
    assert not job.HasField("deadline_met")


@pytest.mark.parametrize("method", ["GetJob", "CancelJob"])
def test_a_job_is_asked_about_by_its_tenant(running, scheduler, asking, method) -> None:
    request = getattr(pb, f"{method}Request")(job_id="job-1")
    call = asking(getattr(running.generation, method), request, metadata=(("x-collodion-tenant", "me"),))
    asked = scheduler.hear()
    assert asked == getattr(to_scheduler, method)(asked.call, "me", "job-1")
    scheduler.say(to_frontend.JobAnswer(asked.call, RUNNING))
    assert call.result().job.job_id == "job-1"


def test_jobs_are_listed_in_pages(running, scheduler, asking) -> None:
    request = pb.ListJobsRequest(page_token="job-5", states=[job_pb2.JOB_STATE_FAILED] * 2, labels={"a": "b"})
    call = asking(running.generation.ListJobs, request)
    asked = scheduler.hear()
    expected = to_scheduler.ListJobs(asked.call, "default", 50, "job-5", (jobs.JobState.FAILED,), {"a": "b"})
    assert asked == expected
    scheduler.say(to_frontend.JobsAnswer(asked.call, (RUNNING, RUNNING), "job-1"))
    answer = call.result()
    assert (len(answer.jobs), answer.next_page_token) == (2, "job-1")


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("GetJob", pb.GetJobRequest(), "job_id"),
        ("CancelJob", pb.CancelJobRequest(), "job_id"),
        ("ListJobs", pb.ListJobsRequest(page_size=1001), "page_size"),
        ("ListJobs", pb.ListJobsRequest(states=[99]), "states[0]"),
        ("ListJobs", pb.ListJobsRequest(states=[0]), "states[0]"),
        ("ListJobs", pb.ListJobsRequest(labels={"NO": "x"}), "labels[NO]"),
        ("ListJobs", pb.ListJobsRequest(page_token="x" * 100_000), "page_token"),
        ("CreateJob", pb.CreateJobRequest(job={"tier": "gold"}), "job.tier"),
    ],
)
def test_wrong_fields_of_calls_are_named(running, method, request_, field) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(running.generation, method)(request_, timeout=10)
    bad = error_details_pb2.BadRequest()
    assert rpc_status.from_call(caught.value).details[1].Unpack(bad)
    assert [violation.field for violation in bad.field_violations] == [field]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_as_many_violations_as_there_can_be_still_reach_the_client(running) -> None:
    labels = {"😀" * 60 + str(index): "x" * 300 for index in range(200)}
    parameters = {"sampler": "😀" * 1000, "model": "😀" * 1000, "loras": [{"scale": 9}] * 30, "quality": 101}
    with pytest.raises(grpc.RpcError) as caught:
        running.generation.CreateJob(pb.CreateJobRequest(job={"labels": labels, "parameters": parameters}), timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = error_details_pb2.BadRequest()
    assert rpc_status.from_call(caught.value).details[1].Unpack(bad)
    assert "more violations" in bad.field_violations[-1].description


@pytest.mark.parametrize(
    ("mebibytes", "code"), [(17, grpc.StatusCode.INVALID_ARGUMENT), (41, grpc.StatusCode.RESOURCE_EXHAUSTED)]
)
def test_a_request_that_is_too_large_gets_a_status(running, mebibytes, code) -> None:
    request = pb.CreateJobRequest(job={"parameters": {"init_image": bytes(mebibytes * 1024 * 1024)}})
    with pytest.raises(grpc.RpcError) as caught:
        running.generation.CreateJob(request, timeout=10)
    assert caught.value.code() is code


def test_a_job_id_that_cannot_be_one_of_ours_is_not_found_without_asking(running, asking) -> None:
    call = asking(running.generation.GetJob, pb.GetJobRequest(job_id="x" * 100_000))
    failed(call, grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")


def test_a_question_that_is_not_answered_ends(start, scheduler, asking) -> None:
    running = start(answer_timeout_s=0.2)
    scheduler.meet(running.channel)
    call = asking(running.generation.GetJob, pb.GetJobRequest(job_id="job-1"))
    failed(call, grpc.StatusCode.UNAVAILABLE, "SCHEDULER_UNREACHABLE")


def test_questions_end_when_the_scheduler_is_another(running, scheduler, asking) -> None:
    call = asking(running.generation.GetJob, pb.GetJobRequest(job_id="job-1"))
    scheduler.hear()
    scheduler.incarnation = "second"
    scheduler.hear_beat()
    failed(call, grpc.StatusCode.UNAVAILABLE, "SCHEDULER_RESTARTED")


def test_bytes_that_are_no_request_are_an_invalid_argument(running, asking) -> None:
    method = running.channel.unary_unary("/collodion.v1.GenerationService/GetJob")
    failed(asking(method, b"\xff\xff\xff"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")


def test_a_stored_picture_is_downloaded_in_pieces(running, scheduler, config) -> None:
    data = bytes(range(250)) * 12_000
    DirectoryStore(config.artifacts).put("job-1/0.png", data)
    stored = msgspec.structs.replace(RUNNING.images[0], sha256=hashlib.sha256(data).hexdigest())
    stream = running.generation.DownloadImage(pb.DownloadImageRequest(job_id="job-1"), timeout=10)
    asked = scheduler.hear()
    scheduler.say(to_frontend.JobAnswer(asked.call, msgspec.structs.replace(RUNNING, images=(stored,))))
    pieces = list(stream)
    assert b"".join(piece.data for piece in pieces) == data
    assert all(0 < len(piece.data) <= 1024 * 1024 for piece in pieces)
    assert [piece.offset for piece in pieces[:2]] == [0, len(pieces[0].data)]
    assert [piece.HasField("image") for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert pieces[0].image.sha256 == stored.sha256
    assert running.metric("image_bytes_sent_total") == len(data)


@pytest.mark.parametrize(
    ("index", "code", "reason"),
    [
        (0, grpc.StatusCode.NOT_FOUND, "IMAGE_NOT_FOUND"),  # its file is gone
        (1, grpc.StatusCode.FAILED_PRECONDITION, "IMAGE_NOT_FINISHED"),
        (2, grpc.StatusCode.NOT_FOUND, "IMAGE_NOT_FOUND"),  # it failed
        (3, grpc.StatusCode.NOT_FOUND, "IMAGE_NOT_FOUND"),
    ],
)
def test_a_picture_that_is_not_there_cannot_be_downloaded(running, scheduler, index, code, reason) -> None:
    stream = running.generation.DownloadImage(pb.DownloadImageRequest(job_id="job-1", index=index), timeout=10)
    scheduler.say(to_frontend.JobAnswer(scheduler.hear().call, RUNNING))
    failed(stream, code, reason)


def test_models_are_listed_and_described(running, asking) -> None:
    (model,) = asking(running.models.ListModels, model_pb2.ListModelsRequest()).result().models
    assert (model.name, model.is_default, model.workers) == ("shapes", True, 1)
    assert [(one.name, one.reason) for one in model.refused_samplers] == [("lcm", "needs a distilled model")]
    assert asking(running.models.GetModel, model_pb2.GetModelRequest(name="shapes")).result().model == model


def test_models_that_are_not_there_and_methods_that_are_not_yet_say_so(running, asking) -> None:
    unknown = asking(running.models.GetModel, model_pb2.GetModelRequest(name="x"))
    failed(unknown, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    unnamed = asking(running.models.GetModel, model_pb2.GetModelRequest())
    failed(unnamed, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    admin = admin_pb2_grpc.AdminServiceStub(running.channel)
    for method, request in (
        (admin.ListWorkers, admin_pb2.ListWorkersRequest()),
        (admin.DrainWorker, admin_pb2.DrainWorkerRequest()),
        (admin.GetLimits, admin_pb2.GetLimitsRequest()),
        (admin.UpdateLimits, admin_pb2.UpdateLimitsRequest()),
    ):
        failed(asking(method, request), grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")


def test_without_a_scheduler_nothing_is_known_of_models(start, asking) -> None:
    call = asking(start().models.ListModels, model_pb2.ListModelsRequest())
    failed(call, grpc.StatusCode.UNAVAILABLE, "SCHEDULER_UNREACHABLE")


def test_health_follows_the_scheduler(start, scheduler) -> None:
    stub = health_pb2_grpc.HealthStub(start(beats_missed=3).channel)
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    changes = stub.Watch(health_pb2.HealthCheckRequest(service="collodion.v1.GenerationService"), timeout=20)
    assert next(changes).status == not_serving
    scheduler.hear_beat()
    assert next(changes).status == serving
    for service in ("", "collodion.v1.GenerationService", "collodion.v1.ModelService", "collodion.v1.AdminService"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status == serving
    scheduler.silent = True
    assert next(changes).status == not_serving
    changes.cancel()


def test_reflection_lists_the_services(running) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (answer,) = stub.ServerReflectionInfo(asked, timeout=10)
    names = {service.name for service in answer.list_services_response.service}
    assert {"collodion.v1.GenerationService", "collodion.v1.ModelService", "grpc.health.v1.Health"} <= names


def test_while_draining_new_work_is_turned_away_and_open_streams_finish(running, scheduler, asking) -> None:
    stream = running.generation.Generate(pb.GenerateRequest(), timeout=20)
    call = scheduler.accept(scheduler.submitted())
    next(stream)
    drained = running.on_loop(running.frontend.drain())
    health = health_pb2_grpc.HealthStub(running.channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
    while next(health).status != health_pb2.HealthCheckResponse.NOT_SERVING:
        pass
    for refused in (
        running.generation.Generate(pb.GenerateRequest(), timeout=10),
        running.generation.WatchJob(pb.WatchJobRequest(job_id="job-1"), timeout=10),
        asking(running.generation.CreateJob, pb.CreateJobRequest()),
    ):
        failed(refused, grpc.StatusCode.UNAVAILABLE, "DRAINING")
    answered = asking(running.generation.GetJob, pb.GetJobRequest(job_id="job-1"))
    scheduler.say(to_frontend.JobAnswer(scheduler.hear().call, RUNNING))
    assert answered.result().job.job_id == RUNNING.job
    assert not drained.done()
    scheduler.hear_beat()  # a beat of the scheduler's does not undo it
    scheduler.tell(call, to_frontend.Ended(jobs.JobState.CANCELLED, to_frontend.Timings(0, 0, 0, 0)))
    assert [response.event.WhichOneof("event") for response in stream] == ["cancelled"]
    drained.result(10)
    health.cancel()


def test_draining_ends_after_its_time_even_if_a_stream_does_not(start, scheduler) -> None:
    running = start(drain_s=0.1)
    scheduler.meet(running.channel)
    stream = running.generation.Generate(pb.GenerateRequest(), timeout=20)
    scheduler.accept(scheduler.submitted())
    next(stream)
    running.on_loop(running.frontend.drain()).result(10)
    stream.cancel()


def test_rpcs_are_counted_by_method_and_code(running, asking) -> None:
    call = asking(running.generation.GetJob, pb.GetJobRequest())
    failed(call, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    running.wait_for_metric(1, "rpcs_total", method="GetJob", code="INVALID_ARGUMENT")
    assert running.metric("violations_total", field="job_id") == 1


def test_labels_do_not_become_labels_of_metrics(running, asking) -> None:
    labels = {f"A]b[{index}]\n": "" for index in range(3)}
    failed(
        asking(running.generation.ListJobs, pb.ListJobsRequest(labels=labels)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELDS",
    )
    assert running.metric("violations_total", field="labels") == 3
