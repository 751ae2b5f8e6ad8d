"""Models that come and go, and adapters, as clients see them."""

from typing import Any

import grpc
import msgspec
import pytest

from collodion.v1 import generation_pb2, job_pb2, model_pb2
from collodion.wire import jobs, to_frontend
from collodion.wire.jobs import AdapterInfo, AdapterKind, ModelStatus, Optimization, Reason, Residency
from collodion.wire.to_scheduler import LoadModel, UnloadModel

COLD = ModelStatus("shapes", Residency.LOADING, 7 << 20, progress=0.25, pinned=True, load_s=12.5)
BROKEN = ModelStatus("broken", Residency.FAILED, reason="broken.safetensors is cut off")


@pytest.fixture
def shown(scheduler: Any, start: Any) -> Any:
    """A frontend that knows a model that is loading, one that failed, and two adapters."""
    known = scheduler.catalogue
    adapters = (
        AdapterInfo("wool", AdapterKind.WHOLE, "sdxl", 9),
        AdapterInfo("ink", AdapterKind.LOW_RANK, "sd1", 5),
    )
    info = msgspec.structs.replace(known.models[0][0], base="sd1", init_images=True, loras=True)
    scheduler.catalogue = msgspec.structs.replace(
        known, models=((info, 0),), statuses=(COLD, BROKEN), adapters=adapters
    )
    running = start()
    scheduler.meet(running.channel)
    return running


def failed(call: Any, code: grpc.StatusCode, reason: str) -> Any:
    from collodion.client.status import from_rpc

    error = call.exception(timeout=10)
    found = from_rpc(error, "here")
    assert (error.code(), found.reason) == (code, reason)
    return found


def test_the_list_says_where_each_model_is_and_what_it_takes(shown: Any, asking: Any) -> None:
    broken, shapes = asking(shown.models.ListModels, model_pb2.ListModelsRequest()).result().models
    assert (broken.name, broken.status.residency) == ("broken", model_pb2.RESIDENCY_FAILED)
    assert broken.status.failure == "broken.safetensors is cut off"
    assert (shapes.status.residency, shapes.status.size_bytes) == (model_pb2.RESIDENCY_LOADING, 7 << 20)
    assert (shapes.status.progress, shapes.status.pinned, shapes.status.load_seconds) == (0.25, True, 12.5)
    assert (shapes.base, shapes.init_images, shapes.masks, shapes.loras) == ("sd1", True, False, True)
    one = asking(shown.models.GetModel, model_pb2.GetModelRequest(name="broken")).result().model
    assert one == broken


def test_adapters_are_listed_by_name(shown: Any, asking: Any) -> None:
    listed = asking(shown.models.ListAdapters, model_pb2.ListAdaptersRequest()).result().adapters
    assert [(one.name, one.kind, one.base, one.size_bytes) for one in listed] == [
        ("ink", model_pb2.ADAPTER_KIND_LOW_RANK, "sd1", 5),
        ("wool", model_pb2.ADAPTER_KIND_WHOLE, "sdxl", 9),
    ]


def test_load_and_unload_answer_with_the_model_as_the_scheduler_says_that_it_stands(
    shown: Any, scheduler: Any, asking: Any
) -> None:
    for method, request, kind in (
        (shown.models.LoadModel, model_pb2.LoadModelRequest(name="shapes"), LoadModel),
        (shown.models.UnloadModel, model_pb2.UnloadModelRequest(name="shapes"), UnloadModel),
    ):
        call = asking(method, request)
        asked = scheduler.hear()
        assert isinstance(asked, kind)
        assert asked.model == "shapes"
        scheduler.say(to_frontend.ModelAnswer(asked.call, ModelStatus("shapes", Residency.RESIDENT, 8)))
        model = call.result().model
        assert (model.name, model.native_width) == ("shapes", 128)
        assert (model.status.residency, model.status.size_bytes) == (model_pb2.RESIDENCY_RESIDENT, 8)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.MODEL_NOT_FOUND, grpc.StatusCode.NOT_FOUND),
        (Reason.MODEL_TOO_LARGE, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Reason.NO_WORKER, grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_what_the_scheduler_refuses_is_an_error(
    shown: Any, scheduler: Any, asking: Any, reason: Reason, code: grpc.StatusCode
) -> None:
    call = asking(shown.models.LoadModel, model_pb2.LoadModelRequest(name="nowhere"))
    scheduler.say(to_frontend.Refused(scheduler.hear().call, reason, "it is so"))
    error = failed(call, code, reason.value)
    assert (error.details.retry_after_s is None) == (reason is not Reason.NO_WORKER)


def test_a_step_cache_is_told_of_submitted_and_echoed_where_the_model_takes_one(
    scheduler: Any, start: Any, asking: Any
) -> None:
    known = scheduler.catalogue
    ((info, workers),) = known.models
    fast = ModelStatus(info.name, Residency.RESIDENT, optimizations=(Optimization("step_cache", "on", "14 blocks"),))
    scheduler.catalogue = msgspec.structs.replace(
        known, models=((msgspec.structs.replace(info, step_cache=True), workers),), statuses=(fast,)
    )
    running = start()
    scheduler.meet(running.channel)
    model = asking(running.models.GetModel, model_pb2.GetModelRequest(name=info.name)).result().model
    assert model.step_cache
    assert [(one.name, one.value, one.detail) for one in model.status.optimizations] == [
        ("step_cache", "on", "14 blocks")
    ]
    job = generation_pb2.JobRequest(parameters=job_pb2.Parameters(step_cache=0.1))
    stream = running.generation.Generate(generation_pb2.GenerateRequest(job=job), timeout=10)
    submit = scheduler.submitted()
    assert submit.spec.parameters.step_cache == 0.1
    scheduler.accept(submit)
    assert next(stream).event.accepted.job.parameters.step_cache == pytest.approx(0.1)
    stream.cancel()


def test_a_model_has_to_be_named(shown: Any, asking: Any) -> None:
    call = asking(shown.models.LoadModel, model_pb2.LoadModelRequest())
    failed(call, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")


def test_a_request_for_a_model_whose_files_cannot_be_used_is_told_why(shown: Any, asking: Any) -> None:
    job = generation_pb2.JobRequest(parameters=job_pb2.Parameters(model="broken"))
    call = asking(shown.generation.CreateJob, generation_pb2.CreateJobRequest(job=job))
    error = failed(call, grpc.StatusCode.FAILED_PRECONDITION, "MODEL_UNUSABLE")
    assert error.message == "broken.safetensors is cut off"


def test_every_word_of_the_wire_has_its_number() -> None:
    from collodion.frontend import convert

    assert set(convert.RESIDENCIES) == set(jobs.Residency)
    assert set(convert.ADAPTER_KINDS) == set(jobs.AdapterKind)
