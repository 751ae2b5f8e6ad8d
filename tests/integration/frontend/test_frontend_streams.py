"""Streams through a real frontend and a real gRPC client, with a scripted scheduler."""

import hashlib
import time

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from collodion.v1 import generation_pb2 as pb
from collodion.v1 import job_pb2
from collodion.wire import jobs, to_frontend, to_scheduler
from collodion.wire.artifacts import DirectoryStore

TIMINGS = to_frontend.Timings(0.5, 1.0, 0.25, 1.75)
FINISHED = to_frontend.Ended(jobs.JobState.FINISHED, TIMINGS, deadline_met=True)
MEBIBYTE = 1024 * 1024


def store(config, data: bytes, index: int = 0, job: str = "job-1") -> jobs.StoredImage:
    """A picture that a worker has put into the store."""
    key = f"{job}/{index}.png"
    DirectoryStore(config.artifacts).put(key, data)
    digest = hashlib.sha256(data).hexdigest()
    return jobs.StoredImage(index, 7 + index, key, "image/png", 128, 128, len(data), digest)


def generate(running, **job):
    return running.generation.Generate(
        pb.GenerateRequest(job=job or {"parameters": {"prompt": "a circle"}}), timeout=20
    )


def kinds(stream) -> list[str]:
    return [response.event.WhichOneof("event") for response in stream]


def ended_with(stream) -> grpc.Call:
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    return caught.value


def reason_of(error: grpc.Call) -> str:
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(error)
    assert status is not None
    assert status.details[0].Unpack(info)
    return info.reason


def test_every_kind_of_event_reaches_the_client_in_order_and_as_it_was(running, scheduler, config) -> None:
    stream = generate(running, parameters={"prompt": "a circle", "images": 2, "seed": 7}, preview_interval=1)
    submit = scheduler.submitted()
    call = scheduler.accept(submit)
    picture = store(config, b"picture")
    failure = jobs.Failure(jobs.Reason.NON_FINITE_LATENT, "went to infinity")
    first = next(stream).event
    for event, opaque in (
        (to_frontend.Warned("PROMPT_TRUNCATED", "cut"), b""),
        (to_frontend.StageChanged(0, jobs.Stage.DENOISING), b""),
        (to_frontend.Progressed(0, 3, 20, predicted_finish=200.5), b""),
        (to_frontend.Previewed(0, 3, "image/webp"), b"small"),
        (to_frontend.ImageStored(picture), b""),
        (to_frontend.ImageFailed(1, failure), b""),
        (to_frontend.Ended(jobs.JobState.FAILED, TIMINGS, failure), b""),
    ):
        scheduler.tell(call, event, opaque)
    warning, stage, progress, preview, image, image_failed, failed = (response.event for response in stream)
    assert first.accepted.job.job_id == "job-1"
    assert first.event_time.ToNanoseconds() == 123_250_000_000
    assert first.accepted.job.parameters.sampler == "ddim"
    assert (warning.warning.reason, warning.warning.message) == ("PROMPT_TRUNCATED", "cut")
    assert (stage.stage.index, stage.stage.stage) == (0, job_pb2.STAGE_DENOISING)
    assert (progress.progress.step, progress.progress.steps) == (3, 20)
    assert progress.progress.predicted_finish_time.ToNanoseconds() == 200_500_000_000
    assert (preview.preview.mime_type, preview.preview.data) == ("image/webp", b"small")
    assert image.image.data == b"picture"
    assert image.image.image.sha256 == picture.sha256
    assert (image.image.parameters.seed, image.image.parameters.images) == (7, 1)
    assert image_failed.image_failed.failure.reason == "NON_FINITE_LATENT"
    assert failed.failed.failure.code == grpc.StatusCode.INTERNAL.value[0]
    assert failed.failed.timings.parked.nanos == 250_000_000


def test_the_submitted_job_is_what_was_asked_for(running, scheduler) -> None:
    stream = running.generation.Generate(
        pb.GenerateRequest(job={"tier": "batch", "labels": {"a": "b"}, "detach": True, "slo": {"seconds": 3}}),
        metadata=(("x-collodion-tenant", "studio.1"),),
    )
    spec = scheduler.submitted().spec
    stream.cancel()
    assert (spec.tenant, spec.tier, spec.slo_s, spec.detach) == ("studio.1", "batch", 3.0, True)
    assert spec.labels == {"a": "b"}
    assert (spec.parameters.model, spec.parameters.width, spec.parameters.steps) == ("shapes", 128, 20)


def test_a_large_picture_comes_in_pieces_right_after_its_event(running, scheduler, config) -> None:
    data = bytes(range(256)) * 4 * 1024 * 2 + b"tail"
    stream = generate(running)
    call = scheduler.accept(scheduler.submitted())
    scheduler.tell(call, to_frontend.ImageStored(store(config, data)))
    scheduler.tell(call, FINISHED)
    events = [response.event for response in stream]
    chunks = [event.image_chunk for event in events[2:-1]]
    assert events[1].image.data == b""
    assert b"".join(chunk.data for chunk in chunks) == data
    assert [chunk.offset for chunk in chunks] == [sum(len(c.data) for c in chunks[:i]) for i in range(len(chunks))]
    assert all(len(chunk.data) <= MEBIBYTE for chunk in chunks)
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert events[-1].finished.deadline_met


def test_a_picture_of_exactly_one_mebibyte_comes_whole(running, scheduler, config) -> None:
    stream = generate(running)
    call = scheduler.accept(scheduler.submitted())
    scheduler.tell(call, to_frontend.ImageStored(store(config, b"x" * MEBIBYTE)))
    scheduler.tell(call, FINISHED)
    assert [len(response.event.image.data) for response in stream] == [0, MEBIBYTE, 0]


def test_with_delivery_by_reference_a_picture_is_only_named(running, scheduler, config) -> None:
    request = pb.GenerateRequest(image_delivery=job_pb2.IMAGE_DELIVERY_REFERENCE)
    stream = running.generation.Generate(request, timeout=20)
    call = scheduler.accept(scheduler.submitted())
    scheduler.tell(call, to_frontend.ImageStored(store(config, b"x" * 2 * MEBIBYTE)))
    scheduler.tell(call, FINISHED)
    _, image, end = (response.event for response in stream)
    assert (image.image.image.size_bytes, image.image.data) == (2 * MEBIBYTE, b"")
    assert end.WhichOneof("event") == "finished"


@pytest.mark.parametrize("size", [100, 2 * MEBIBYTE])
def test_a_picture_that_is_gone_is_told_and_the_stream_goes_on(running, scheduler, config, size) -> None:
    stored = store(config, b"x" * size)
    (config.artifacts / stored.key).unlink()
    stream = generate(running)
    call = scheduler.accept(scheduler.submitted())
    scheduler.tell(call, to_frontend.ImageStored(stored))
    scheduler.tell(call, FINISHED)
    events = [response.event for response in stream]
    kinds_told = [event.WhichOneof("event") for event in events[1:-1]]
    assert kinds_told == ["image", "image_chunk", "warning"]
    assert [running.metric("events_sent_total", kind=kind) for kind in kinds_told] == [1, 1, 1]
    assert [event.image_chunk.last for event in events if event.HasField("image_chunk")] == [True]


def test_one_event_reaches_every_stream_that_it_is_for(running, scheduler) -> None:
    first = generate(running)
    submit = scheduler.submitted()
    scheduler.accept(submit)
    second = running.generation.WatchJob(pb.WatchJobRequest(job_id="job-1"), timeout=20)
    watch = scheduler.hear()
    assert watch == to_scheduler.WatchJob(watch.call, "default", "job-1")
    scheduler.accept(to_scheduler.SubmitJob(watch.call, submit.spec, True))
    scheduler.say(to_frontend.JobEvent((submit.call, watch.call, 99), "job-1", 1.0, FINISHED))
    assert kinds(first) == kinds(second) == ["accepted", "finished"]


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("how", ["cancel", "timeout", "connection"])
def test_hanging_up_is_told_to_the_scheduler(start, scheduler, accepted, how) -> None:
    running = start()
    scheduler.meet(running.channel)
    timeout = 0.5 if how == "timeout" else 20
    stream = running.generation.Generate(pb.GenerateRequest(), timeout=timeout)
    submit = scheduler.submitted()
    if accepted:
        scheduler.accept(submit)
        next(stream)
    if how == "cancel":
        stream.cancel()
    elif how == "connection":
        running.channel.close()
    assert scheduler.hear() == to_scheduler.LeaveJob(submit.call)
    scheduler.hear_beat(lambda beat: not beat.watching)


def test_hanging_up_is_told_while_the_stream_is_stuck_in_a_write(running, scheduler) -> None:
    stream = generate(running)
    call = scheduler.accept(scheduler.submitted())
    next(stream)
    before = running.metric("events_coalesced_total", kind="preview")
    for step in range(40):  # more than the windows of HTTP/2 hold
        scheduler.tell(call, to_frontend.Previewed(0, step, "image/webp"), b"x" * 100_000)
    beat = scheduler.hear_beat(lambda _: running.metric("events_coalesced_total", kind="preview") > before)
    assert beat.watching == {call: "job-1"}
    stream.cancel()
    assert scheduler.hear() == to_scheduler.LeaveJob(call)
    assert running.metric("open_streams") == 0


def test_a_job_that_ended_is_not_left(running, scheduler) -> None:
    stream = generate(running)
    call = scheduler.accept(scheduler.submitted())
    scheduler.tell(call, FINISHED)
    assert kinds(stream) == ["accepted", "finished"]
    again = generate(running)
    assert isinstance(scheduler.hear(), to_scheduler.SubmitJob)
    again.cancel()


def test_beats_name_the_calls_that_are_open_also_before_they_are_accepted(running, scheduler) -> None:
    stream = generate(running)
    submit = scheduler.submitted()
    scheduler.hear_beat(lambda beat: beat.watching == {submit.call: ""})
    call = scheduler.accept(submit)
    scheduler.hear_beat(lambda beat: beat.watching == {call: "job-1"})
    scheduler.tell(call, FINISHED)
    assert kinds(stream) == ["accepted", "finished"]
    scheduler.hear_beat(lambda beat: not beat.watching)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (jobs.Reason.INVALID_FIELDS, grpc.StatusCode.INVALID_ARGUMENT),
        (jobs.Reason.MODEL_NOT_FOUND, grpc.StatusCode.NOT_FOUND),
        (jobs.Reason.REQUEST_ID_REUSED, grpc.StatusCode.ALREADY_EXISTS),
        (jobs.Reason.QUEUE_FULL, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (jobs.Reason.NO_WORKER, grpc.StatusCode.UNAVAILABLE),
        (jobs.Reason.INTERNAL, grpc.StatusCode.INTERNAL),
    ],
)
def test_what_the_scheduler_refuses_ends_with_its_code_and_details(running, scheduler, reason, code) -> None:
    stream = generate(running)
    scheduler.say(to_frontend.Refused(scheduler.submitted().call, reason, "because", retry_after_s=2.5))
    error = ended_with(stream)
    details = rpc_status.from_call(error).details
    assert (error.code(), error.details(), reason_of(error)) == (code, "because", reason)
    kinds_of_details = [detail.TypeName().removeprefix("google.rpc.") for detail in details]
    assert ("RetryInfo" in kinds_of_details) == (reason in ("QUEUE_FULL", "NO_WORKER"))
    assert ("ResourceInfo" in kinds_of_details) == (reason == "MODEL_NOT_FOUND")
    assert ("BadRequest" in kinds_of_details) == (reason == "INVALID_FIELDS")


def test_a_call_that_is_not_answered_ends_and_is_left(start, scheduler) -> None:
    running = start(answer_timeout_s=0.2)
    scheduler.meet(running.channel)
    stream = generate(running)
    submit = scheduler.submitted()
    error = ended_with(stream)
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "SCHEDULER_UNREACHABLE")
    assert scheduler.hear() == to_scheduler.LeaveJob(submit.call)


def test_without_a_scheduler_calls_end_at_once(start) -> None:
    error = ended_with(generate(start()))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "SCHEDULER_UNREACHABLE")


def test_when_the_scheduler_falls_silent_streams_end_and_its_return_is_noticed(start, scheduler) -> None:
    running = start(beats_missed=3)
    scheduler.meet(running.channel)
    stream = generate(running)
    scheduler.accept(scheduler.submitted())
    next(stream)
    scheduler.silent = True
    error = ended_with(stream)
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "SCHEDULER_UNREACHABLE")
    assert running.metric("scheduler_reachable") == 0
    scheduler.silent = False
    scheduler.hear_beat(lambda _: running.metric("scheduler_reachable") == 1)
    again = generate(running)
    scheduler.tell(scheduler.accept(scheduler.submitted()), FINISHED)
    assert kinds(again) == ["accepted", "finished"]


def test_a_new_scheduler_ends_the_streams_of_the_old_one(running, scheduler) -> None:
    stream = generate(running)
    scheduler.accept(scheduler.submitted())
    next(stream)
    scheduler.incarnation = "second"
    scheduler.hear_beat()
    error = ended_with(stream)
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "SCHEDULER_RESTARTED")


def test_garbage_on_the_schedulers_socket_is_counted_and_harms_nothing(running, scheduler) -> None:
    stream = generate(running)
    call = scheduler.accept(scheduler.submitted())
    for frames in ([b""], [b"\xc1"], [b"x" * 1000], [b"\x81\xa4type\xa4what"], [b"\xff", b"more", b"frames"]):
        scheduler.router.socket.send_multipart([scheduler.peer, *frames])
    scheduler.tell(call, FINISHED)
    assert kinds(stream) == ["accepted", "finished"]
    assert running.metric("decode_errors_total") == 5


@pytest.mark.parametrize("at", [float("nan"), float("inf"), 1e300])
def test_an_event_that_cannot_be_told_ends_its_streams_only(running, scheduler, at) -> None:
    stream = generate(running)
    call = scheduler.accept(scheduler.submitted())
    scheduler.say(to_frontend.JobEvent((call,), "job-1", at, to_frontend.Progressed(0, 1, 20)))
    assert ended_with(stream).code() is grpc.StatusCode.INTERNAL
    again = generate(running)
    scheduler.tell(scheduler.accept(scheduler.submitted()), FINISHED)
    assert kinds(again) == ["accepted", "finished"]


def test_a_reader_that_stops_gets_the_newest_and_all_that_may_not_be_lost(running, scheduler, config) -> None:
    slow = generate(running)
    slow_call = scheduler.accept(scheduler.submitted(), "job-1")
    quick = generate(running)
    quick_call = scheduler.accept(scheduler.submitted(), "job-2")
    pictures = [store(config, b"p" * 200_000, index) for index in range(16)]
    scheduler.tell(slow_call, to_frontend.StageChanged(0, jobs.Stage.DENOISING))
    for step in range(300):
        scheduler.tell(slow_call, to_frontend.Progressed(0, step, 300))
        scheduler.tell(slow_call, to_frontend.Previewed(0, step, "image/webp"), b"v" * 10_000)
    for picture in pictures:
        scheduler.tell(slow_call, to_frontend.ImageStored(picture))
    scheduler.tell(slow_call, FINISHED)
    scheduler.tell(quick_call, FINISHED, job="job-2")
    started = time.monotonic()
    assert kinds(quick) == ["accepted", "finished"]
    assert time.monotonic() - started < 5
    events = [response.event for response in slow]
    steps = [event.progress.step for event in events if event.HasField("progress")]
    assert steps == sorted(steps)
    assert steps[-1] == 299
    assert len(steps) < 300
    assert [event.image.image.index for event in events if event.HasField("image")] == list(range(16))
    assert events[-1].WhichOneof("event") == "finished"
    assert running.metric("events_coalesced_total", kind="progress") > 0


def test_without_coalescing_a_reader_gets_every_event(start, scheduler) -> None:
    running = start(coalesce=False)
    scheduler.meet(running.channel)
    stream = generate(running)
    call = scheduler.accept(scheduler.submitted())
    for step in range(500):
        scheduler.tell(call, to_frontend.Progressed(0, step, 500))
    scheduler.tell(call, FINISHED)
    steps = [response.event.progress.step for response in stream if response.event.HasField("progress")]
    assert steps == list(range(500))
