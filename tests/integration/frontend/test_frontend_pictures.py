"""Requests with pictures and adapters through a real frontend and a real gRPC client, with a scripted scheduler."""

import concurrent.futures
import gc
import hashlib
import io
import threading
import tracemalloc
import weakref
from typing import Any

import grpc
import msgspec
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from collodion.frontend import rpc, uploads
from collodion.v1 import generation_pb2 as pb
from collodion.wire import jobs, to_frontend

MEBIBYTE = 1024 * 1024
BOUND_S = 10.0
PHOTO = Image.effect_noise((160, 96), 60).convert("RGB")


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


@pytest.fixture
def artist(start, scheduler):
    """Starts a frontend that has heard of a model which takes pictures and adapters."""

    def started(**changes: Any):
        running = start(**changes)
        ((model, workers),) = scheduler.catalogue.models
        able = msgspec.structs.replace(model, init_images=True, masks=True, loras=True, weighted_prompts=True)
        ink = jobs.AdapterInfo("ink", jobs.AdapterKind.LOW_RANK)
        scheduler.catalogue = msgspec.structs.replace(scheduler.catalogue, models=((able, workers),), adapters=(ink,))
        scheduler.meet(running.channel)
        return running

    return started


def generate(running, timeout: float = 20, **parameters: Any):
    return running.generation.Generate(pb.GenerateRequest(job={"parameters": parameters}), timeout=timeout)


def refused(call) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """How a call ends: code, reason, violations."""
    with pytest.raises(grpc.RpcError) as caught:
        call.result() if isinstance(call, concurrent.futures.Future) else list(call)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in rpc_status.from_call(caught.value).details:
        detail.Unpack(info)
        detail.Unpack(bad)
    return caught.value.code(), info.reason, {one.field: one.description for one in bad.field_violations}


def stored(config) -> list[str]:
    return sorted(path.name for path in (config.artifacts / "uploads").glob("*"))


def test_a_picture_is_stored_before_the_scheduler_hears_of_its_job_and_echoed_by_its_sha256(
    artist, scheduler, config
) -> None:
    running = artist()
    mask = encoded(Image.new("L", (8, 8), 255))
    stream = generate(running, init_image=encoded(PHOTO, "JPEG"), mask_image=mask, strength=0.7, steps=10)
    submit = scheduler.submitted()
    asked = submit.spec.parameters
    for key in (asked.init_image, asked.mask_image):
        data = (config.artifacts / key).read_bytes()
        assert key == f"uploads/{hashlib.sha256(data).hexdigest()}.png"
    assert (asked.width, asked.height, asked.strength, asked.steps_run) == (160, 96, 0.7, 7)
    scheduler.accept(submit)
    echoed = next(stream).event.accepted.job.parameters
    assert (echoed.init_image_sha256, echoed.mask_image_sha256) == (asked.init_image[8:-4], asked.mask_image[8:-4])
    assert not echoed.init_image


def test_all_who_send_the_same_picture_share_one_file_and_one_decoding(artist, scheduler, config) -> None:
    running = artist()
    keys = []
    for data in (
        encoded(PHOTO),
        encoded(PHOTO),
        encoded(PHOTO, compress_level=0),
        encoded(PHOTO, "WEBP", lossless=True),
    ):
        stream = generate(running, init_image=data)
        submit = scheduler.submitted()
        keys.append(submit.spec.parameters.init_image)
        scheduler.accept(submit)
        next(stream)
        stream.cancel()
        scheduler.hear()
    assert len(set(keys)) == 1
    assert len(stored(config)) == 1
    assert running.metric("upload_seconds_count") == 3


def test_a_picture_that_was_pruned_meanwhile_is_stored_again(artist, scheduler, config) -> None:
    running = artist()
    streams = []
    for _ in range(2):
        streams.append(generate(running, init_image=encoded(PHOTO)))
        key = scheduler.submitted().spec.parameters.init_image
        (config.artifacts / key).unlink()
    assert running.metric("upload_seconds_count") == 2


def test_a_request_that_is_sent_again_is_the_same_request(artist, scheduler) -> None:
    running = artist()
    job = {
        "request_id": "9b2f9c4e-0f6a-4d0c-8d1f-000000000001",
        "parameters": {"init_image": encoded(PHOTO), "loras": [{"name": "ink", "scale": 0.3}], "strength": 0.3},
    }
    specs, streams = [], []
    for _ in range(2):
        streams.append(running.generation.Generate(pb.GenerateRequest(job=job), timeout=20))
        specs.append(scheduler.submitted().spec)
    assert specs[0] == specs[1]


def test_a_job_may_be_created_from_a_picture_and_left(artist, scheduler, asking) -> None:
    running = artist()
    call = asking(running.generation.CreateJob, pb.CreateJobRequest(job={"parameters": {"init_image": encoded(PHOTO)}}))
    submit = scheduler.submitted()
    view = to_frontend.JobView("job-1", submit.spec, jobs.JobState.QUEUED, 100.0, 0, (), ())
    scheduler.say(to_frontend.JobAnswer(submit.call, view))
    assert call.result().job.parameters.init_image_sha256


@pytest.mark.parametrize(
    ("init_image", "mask_image", "violations"),
    [
        (b"no picture", b"", {"init_image": "is not a PNG, JPEG or WebP picture"}),
        (encoded(PHOTO)[:200], b"", {"init_image": "cannot be decoded: it is damaged or incomplete"}),
        (encoded(PHOTO), b"no picture", {"mask_image": "is not a PNG, JPEG or WebP picture"}),
        (
            encoded(PHOTO, "PNG", save_all=True, append_images=[PHOTO.rotate(180)]),
            b"no picture",
            {"init_image": "is animated; send a single picture", "mask_image": "is not a PNG, JPEG or WebP picture"},
        ),
    ],
)
def test_what_is_wrong_with_pictures_is_told_at_once(artist, init_image, mask_image, violations) -> None:
    stream = generate(artist(), init_image=init_image, mask_image=mask_image)
    expected = {f"job.parameters.{field}": said for field, said in violations.items()}
    assert refused(stream) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS", expected)


def test_a_picture_of_a_request_that_is_wrong_elsewhere_is_not_even_decoded(artist, config) -> None:
    running = artist()
    code, _, violations = refused(generate(running, init_image=encoded(PHOTO), quality=101))
    assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["job.parameters.quality"])
    assert refused(generate(running, init_image=encoded(PHOTO), loras=[{"name": "imk"}]))[1] == "ADAPTER_NOT_FOUND"
    assert stored(config) == []


def test_two_pictures_of_the_greatest_length_are_received(artist) -> None:
    stream = generate(artist(), init_image=bytes(16 * MEBIBYTE), mask_image=bytes(16 * MEBIBYTE + 1))
    assert list(refused(stream)[2]) == ["job.parameters.mask_image"]


@pytest.fixture
def held(monkeypatch):
    """Keeps decoding from going on until it is set; `begun` counts the decodings that have begun."""
    go_on = threading.Event()
    decode = uploads.normalised
    go_on.begun = threading.Semaphore(0)

    def waiting(data: bytes, *, mask: bool) -> Any:
        go_on.begun.release()
        assert go_on.wait(BOUND_S)
        return decode(data, mask=mask)

    monkeypatch.setattr(uploads, "normalised", waiting)
    yield go_on
    go_on.set()


def test_pictures_beyond_the_bound_on_their_bytes_are_turned_away_for_a_moment(artist, scheduler, held) -> None:
    running = artist(upload_budget_bytes=1000)
    first = generate(running, init_image=encoded(PHOTO))  # one is always let in
    assert held.begun.acquire(timeout=BOUND_S)
    second = generate(running, init_image=encoded(PHOTO))
    with pytest.raises(grpc.RpcError) as caught:
        next(second)
    retry = error_details_pb2.RetryInfo()
    status = rpc_status.from_call(caught.value)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert any(detail.Unpack(retry) for detail in status.details)
    held.set()
    scheduler.accept(scheduler.submitted())
    next(first)
    assert running.metric("upload_bytes") == 0
    third = generate(running, init_image=encoded(PHOTO))
    scheduler.accept(scheduler.submitted())
    next(third)


def test_who_waits_too_long_for_its_turn_is_turned_away(artist, scheduler, held) -> None:
    running = artist(upload_threads=1, upload_wait_s=0.1)
    first = generate(running, init_image=encoded(PHOTO))
    assert held.begun.acquire(timeout=BOUND_S)
    code, reason, _ = refused(generate(running, init_image=encoded(PHOTO)))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    held.set()
    scheduler.accept(scheduler.submitted())
    next(first)


def test_a_client_that_hangs_up_while_its_picture_is_decoded_leaves_no_job_and_gives_back_its_turn(
    artist, scheduler, held
) -> None:
    running = artist(upload_threads=1)
    first = generate(running, init_image=encoded(PHOTO))
    assert held.begun.acquire(timeout=BOUND_S)
    first.cancel()
    running.wait_for_metric(1, "rpcs_total", method="Generate", code="CANCELLED")
    second = generate(running, init_image=encoded(PHOTO))
    held.set()
    submit = scheduler.submitted()  # the only one
    scheduler.accept(submit)
    assert next(second).event.accepted.job.job_id == "job-1"
    assert running.metric("upload_bytes") == 0


# ------------------------------------------------------------ memory


LARGE = encoded(Image.effect_noise((2000, 1500), 60).convert("RGB"), compress_level=0)  # over 8 MiB


@pytest.fixture
def held_by_frontend():
    """How many blocks of several megabytes the frontend's threads hold, and decoded pictures; no collection of garbage helps."""

    def count() -> tuple[int, int]:
        large = [trace for trace in tracemalloc.take_snapshot().traces if trace.size > 4 * MEBIBYTE]
        # The client is in this process, too, and keeps what it sent; but not on a thread of the frontend's.
        ours = [trace for trace in large if any(frame.filename == threading.__file__ for frame in trace.traceback)]
        return len(ours), sum(issubclass(type(one), Image.Image) for one in gc.get_objects()) - before

    gc.collect()
    gc.disable()
    before = sum(issubclass(type(one), Image.Image) for one in gc.get_objects())
    tracemalloc.start(20)
    yield count
    tracemalloc.stop()
    gc.enable()


class Watched:
    """A request that can be watched being forgotten, which protobuf's own cannot."""

    def __init__(self, message: Any) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)


def test_a_stream_does_not_keep_the_pictures_of_its_request(artist, scheduler, monkeypatch, held_by_frontend) -> None:
    running = artist()
    requests = []
    parse = rpc._parsed

    def watched(request: Any, data: object) -> Any:
        made = Watched(parse(request, data))
        requests.append(weakref.ref(made))
        return made

    monkeypatch.setattr(rpc, "_parsed", watched)
    stream = generate(running, init_image=LARGE)
    scheduler.accept(scheduler.submitted())
    next(stream)
    assert held_by_frontend() == (0, 0)
    assert [reference() for reference in requests] == [None]


@pytest.mark.parametrize("picture", [LARGE[:-1000], b"x" * 9 * MEBIBYTE])
def test_a_picture_that_is_refused_is_let_go_of_at_once(artist, asking, held_by_frontend, picture) -> None:
    running = artist()
    request = pb.JobRequest(parameters={"init_image": picture})
    for _ in range(3):
        refused(asking(running.generation.CreateJob, pb.CreateJobRequest(job=request)))
        refused(running.generation.Generate(pb.GenerateRequest(job=request), timeout=20))
    running.wait_for_metric(3, "rpcs_total", method="Generate", code="INVALID_ARGUMENT")
    assert held_by_frontend() == (0, 0)


def test_a_picture_that_is_turned_away_is_let_go_of_at_once(artist, asking, held, held_by_frontend, eventually) -> None:
    running = artist(upload_threads=1, upload_wait_s=0.1)
    first = generate(running, init_image=LARGE)
    assert held.begun.acquire(timeout=BOUND_S)
    request = pb.JobRequest(parameters={"init_image": LARGE})
    for _ in range(2):
        refused(asking(running.generation.CreateJob, pb.CreateJobRequest(job=request)))
        refused(running.generation.Generate(pb.GenerateRequest(job=request), timeout=20))
        running.generation.Generate(pb.GenerateRequest(job=request), timeout=20).cancel()
    running.wait_for_metric(2, "rpcs_total", method="Generate", code="RESOURCE_EXHAUSTED")
    # That of the first; of those who hung up the last may be about to be turned away.
    eventually(lambda: held_by_frontend()[0] <= 1, "those that were turned away are let go of")
    first.cancel()


def test_a_store_that_cannot_be_written_is_the_servers_fault(artist, config) -> None:
    running = artist()
    (config.artifacts / "uploads").write_text("a file where a directory should be")
    code, reason, _ = refused(generate(running, init_image=encoded(PHOTO)))
    assert (code, reason) == (grpc.StatusCode.INTERNAL, "ARTIFACT_NOT_STORED")


def test_an_adapter_that_is_not_there_is_not_found(artist) -> None:
    running = artist()
    code, reason, _ = refused(generate(running, prompt="<lora:imk:0.5>", prompt_syntax=2))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND")
