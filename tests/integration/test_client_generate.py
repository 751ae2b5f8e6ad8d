"""`Client.generate`, `stream` and `watch` against a scripted server: pictures, callbacks, broken connections, silence."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from collodion.client import (
    Accepted,
    Client,
    ClientClosed,
    CorruptImage,
    Finished,
    ImageReady,
    JobCancelled,
    JobFailed,
    JobLost,
    NotFound,
    Preview,
    Progress,
    Reattached,
    RetryPolicy,
    ServerBusy,
    ServerError,
    ServerUnavailable,
    TimedOut,
)
from collodion.v1 import generation_pb2, job_pb2
from tests.integration import fake_server as fake
from tests.integration.fake_server import BROKEN, JOB_ID, Error, FakeServer

FAST = RetryPolicy(attempts=3, initial_s=0.001, longest_s=0.01)
HAPPY = [fake.accepted(), fake.progress(1), fake.preview(1), fake.progress(4), fake.image(), fake.finished()]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


def connect(server: FakeServer, **settings: Any) -> Client:
    return Client(server.address, **{"retries": FAST, "reattaching": FAST} | settings)


def test_generate_returns_the_pictures_with_what_drew_them(server: FakeServer) -> None:
    server.script("Generate", HAPPY)
    with connect(server, tenant="atelier") as client:
        generation = client.generate("a fox", steps=4, seed=7, labels={"for": "test"}, slo_s=2.5)

    (image,) = generation.images
    assert image.pil.getpixel((0, 0)) == (200, 30, 30)
    assert (image.index, image.seed, image.mime_type, image.job_id) == (0, 7, "image/png", JOB_ID)
    assert image.parameters.sampler == "ddim"
    assert image.data == fake.png()
    assert generation.timings.total_s == 1.5
    assert generation.deadline_met is True
    request = server.asked("Generate")[0]
    assert request.job.parameters.steps == 4
    assert request.job.slo.ToMilliseconds() == 2500
    assert request.job.labels == {"for": "test"}
    assert len(request.job.request_id) == 36
    assert not request.job.parameters.HasField("guidance_scale"), "what is not given is not sent"
    assert server.metadata[0]["x-collodion-tenant"] == "atelier"


def test_callbacks_hear_of_progress_previews_pictures_and_everything(server: FakeServer) -> None:
    server.script("Generate", HAPPY)
    steps, previews, images, events = [], [], [], []
    with connect(server) as client:
        client.generate(
            "a fox",
            on_progress=lambda progress: steps.append((progress.step, progress.steps)),
            on_preview=lambda preview: previews.append(preview.pil.size),
            on_image=lambda image: images.append(image.index),
            on_event=lambda event: events.append(type(event)),
        )
    assert steps == [(1, 4), (4, 4)]
    assert previews == [(4, 4)]
    assert images == [0]
    assert events == [Accepted, Progress, Preview, Progress, ImageReady, Finished]
    assert server.asked("Generate")[0].job.preview_interval == 1, "who listens for previews gets them"


def test_a_picture_in_chunks_comes_whole(server: FakeServer) -> None:
    data = fake.png(size=64)
    server.script(
        "Generate", [fake.accepted(), fake.image(data=data, inline=False), *fake.chunks(data), fake.finished()]
    )
    with connect(server) as client:
        assert client.generate("a fox").images[0].data == data


@pytest.mark.parametrize(
    "pictures",
    [
        [fake.image(sha256="0" * 64)],
        [fake.image(size_bytes=5)],
        [fake.image(inline=False), *fake.chunks(fake.png())[1:]],
        [fake.image(inline=False, size_bytes=1000), *fake.chunks(fake.png())],
        fake.chunks(fake.png()),
    ],
    ids=["wrong digest", "too long", "first piece missing", "last piece missing", "not announced"],
)
def test_a_picture_that_is_not_the_stored_one_is_refused(server: FakeServer, pictures: list[Any]) -> None:
    server.script("Generate", [fake.accepted(), *pictures, fake.finished()])
    with connect(server) as client, pytest.raises(CorruptImage):
        client.generate("a fox")


@pytest.mark.parametrize("pieces", [0, 2])
def test_a_picture_that_is_no_longer_stored_is_a_warning_and_the_others_come(server: FakeServer, pieces: int) -> None:
    data = fake.png(size=64)
    sent = fake.chunks(data)[:pieces]
    end = job_pb2.ImageChunk(index=0, offset=sum(len(piece.image_chunk.data) for piece in sent), last=True)
    gone = job_pb2.Warning(reason="IMAGE_NOT_FOUND", message="image 0 is no longer stored")
    missing = [fake.image(0, data, inline=False), *sent, fake.event(image_chunk=end), fake.event(warning=gone)]
    server.script("Generate", [fake.accepted(2), *missing, fake.image(1), fake.finished()])
    with connect(server) as client:
        generation = client.generate("a fox", images=2)
    assert [image.index for image in generation.images] == [1]
    assert [warning.reason for warning in generation.warnings] == ["IMAGE_NOT_FOUND"]


def test_a_broken_stream_is_taken_up_again_without_repeating_pictures(server: FakeServer) -> None:
    data = fake.png(size=64)
    half = [fake.image(1, data, inline=False), *fake.chunks(data, 1)[:2]]
    server.script("Generate", [fake.accepted(2), fake.progress(4), fake.image(0), *half, BROKEN])
    server.script(
        "WatchJob",
        [fake.accepted(2), fake.image(0), BROKEN],
        [fake.accepted(2), fake.image(0), fake.image(1), fake.finished()],
    )
    with connect(server) as client:
        events = list(client.stream("a fox", images=2))

    kinds = [type(event) for event in events]
    assert kinds == [Accepted, Progress, ImageReady, Reattached, Reattached, ImageReady, Finished]
    assert [event.image.index for event in events if isinstance(event, ImageReady)] == [0, 1]
    assert [request.job_id for request in server.asked("WatchJob")] == [JOB_ID, JOB_ID]
    assert len(server.asked("Generate")) == 1, "an accepted job is not submitted again"


def test_a_stream_that_ends_before_its_job_is_taken_up_again(server: FakeServer) -> None:
    server.script("Generate", [fake.accepted()])
    server.script("WatchJob", [fake.accepted(), fake.image(), fake.finished()])
    with connect(server) as client:
        assert len(client.generate("a fox").images) == 1


def test_a_server_that_went_away_and_came_back_is_found_again(server: FakeServer) -> None:
    accepted = threading.Event()
    server.script("Generate", [fake.accepted(), fake.until_hung_up])
    server.script("WatchJob", [fake.accepted(), fake.image(), fake.finished()])
    patient = RetryPolicy(attempts=40, initial_s=0.05, longest_s=0.2)

    def restart() -> None:
        assert accepted.wait(fake.BOUND_S)
        server.stop()
        server.start()

    restarting = threading.Thread(target=restart)
    restarting.start()
    with connect(server, reattaching=patient) as client:
        generation = client.generate("a fox", on_event=lambda _: accepted.set())
    restarting.join()
    assert len(generation.images) == 1


def test_before_it_is_accepted_a_request_is_made_again_with_the_same_id(server: FakeServer) -> None:
    server.script("Generate", [BROKEN], [BROKEN], HAPPY)
    with connect(server) as client:
        client.generate("a fox")
    ids = {request.job.request_id for request in server.asked("Generate")}
    assert len(server.asked("Generate")) == 3
    assert len(ids) == 1


def test_a_server_that_stays_away_is_given_up(server: FakeServer) -> None:
    server.script("Generate", [BROKEN])
    with connect(server) as client, pytest.raises(ServerUnavailable, match="cannot be reached"):
        client.generate("a fox")
    assert len(server.asked("Generate")) == FAST.attempts


def test_attaching_alone_does_not_renew_the_patience(server: FakeServer) -> None:
    server.script("Generate", [fake.accepted(), BROKEN])
    server.script("WatchJob", [fake.accepted(), BROKEN])
    with connect(server) as client, pytest.raises(ServerUnavailable):
        client.generate("a fox")
    assert len(server.asked("WatchJob")) == FAST.attempts - 1


@pytest.mark.parametrize(
    "end",
    [
        Error(grpc.StatusCode.UNAVAILABLE, reason="SCHEDULER_RESTARTED", details=(fake.retry_info(0.001),)),
        Error(grpc.StatusCode.NOT_FOUND, reason="JOB_NOT_FOUND"),
    ],
)
def test_a_job_that_the_server_forgot_is_lost_with_what_had_arrived(server: FakeServer, end: Error) -> None:
    server.script("Generate", [fake.accepted(2), fake.image(0), BROKEN])
    server.script("WatchJob", [end])
    with connect(server) as client, pytest.raises(JobLost, match="submit it again") as caught:
        client.generate("a fox", images=2)
    assert caught.value.job_id == JOB_ID
    assert [image.index for image in caught.value.images] == [0]
    assert len(server.asked("Generate")) == 1


def test_a_failed_job_raises_with_its_reason_and_its_finished_pictures(server: FakeServer) -> None:
    failure = job_pb2.Failure(code=13, reason="NON_FINITE_LATENT", message="it went to infinity")
    one_failed = fake.event(image_failed=job_pb2.ImageFailed(index=1, failure=failure))
    server.script("Generate", [fake.accepted(2), fake.image(0), one_failed, fake.failed()])
    with connect(server) as client, pytest.raises(JobFailed, match="infinity") as caught:
        client.generate("a fox", images=2)
    assert (caught.value.reason, caught.value.code) == ("NON_FINITE_LATENT", grpc.StatusCode.INTERNAL)
    assert [image.index for image in caught.value.images] == [0]


def test_a_cancelled_job_raises(server: FakeServer) -> None:
    server.script("Generate", [fake.accepted(), fake.cancelled()])
    with connect(server) as client, pytest.raises(JobCancelled, match="by a client"):
        client.generate("a fox")


def test_a_full_queue_is_waited_for_only_if_it_says_how_long(server: FakeServer) -> None:
    full = grpc.StatusCode.RESOURCE_EXHAUSTED
    server.script("Generate", [Error(full, reason="QUEUE_FULL", details=(fake.retry_info(0.01),))], HAPPY)
    with connect(server) as client:
        client.generate("a fox")
        server.script("Generate", [Error(full, reason="QUEUE_FULL")], HAPPY)
        with pytest.raises(ServerBusy) as caught:
            client.generate("a fox")
        assert caught.value.details.retry_after_s is None
        server.script("Generate", [Error(full, reason="QUEUE_FULL", details=(fake.retry_info(3600),))], HAPPY)
        with pytest.raises(ServerBusy) as caught:
            client.generate("a fox")
    assert caught.value.details.retry_after_s == 3600


def test_an_error_of_the_server_ends_a_stream_at_once(server: FakeServer) -> None:
    server.script("Generate", [fake.accepted(), Error(grpc.StatusCode.INTERNAL, reason="INTERNAL")])
    with connect(server) as client, pytest.raises(ServerError):
        client.generate("a fox")
    assert not server.asked("WatchJob")


def test_a_server_that_accepts_nothing_in_time_times_out(server: FakeServer) -> None:
    server.script("Generate", [fake.until_hung_up])
    with connect(server, timeout_s=0.1) as client, pytest.raises(TimedOut, match="in time"):
        client.generate("a fox")
    assert len(server.asked("Generate")) <= 1, "timeouts are not retried"


def test_a_silent_stream_is_waited_for_while_the_server_says_that_the_job_runs(server: FakeServer) -> None:
    asked = threading.Semaphore(0)

    def running(_: object) -> generation_pb2.GetJobResponse:
        asked.release()
        return generation_pb2.GetJobResponse(job=fake.job())

    def twice(_: object) -> None:
        for _again in range(2):
            assert asked.acquire(timeout=fake.BOUND_S)

    server.script("GetJob", running)
    server.script("Generate", [fake.accepted(), twice, fake.image(), fake.finished()])
    with connect(server, silence_s=0.05) as client:
        assert len(client.generate("a fox").images) == 1
    assert not server.asked("WatchJob")


@pytest.mark.parametrize(
    "answer",
    [BROKEN, generation_pb2.GetJobResponse(job=fake.job(state=job_pb2.JOB_STATE_FINISHED))],
    ids=["the server is away", "the job has ended"],
)
def test_a_silent_stream_is_taken_up_again_if_the_job_does_not_run(server: FakeServer, answer: Any) -> None:
    server.script("GetJob", answer)
    server.script("Generate", [fake.accepted(), fake.until_hung_up])
    server.script("WatchJob", [fake.accepted(), fake.image(), fake.finished()])
    with connect(server, silence_s=0.05) as client:
        assert len(client.generate("a fox").images) == 1


def test_an_exception_in_a_callback_hangs_up(server: FakeServer) -> None:
    hung_up = threading.Event()
    server.script(
        "Generate",
        [lambda context: context.add_callback(hung_up.set), fake.accepted(), fake.progress(1), fake.until_hung_up],
    )

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with connect(server) as client:
        with pytest.raises(KeyboardInterrupt):
            client.generate("a fox", on_progress=interrupt)
        assert hung_up.wait(fake.BOUND_S)
    assert not server.asked("WatchJob")


def test_closing_the_client_from_another_thread_ends_what_is_under_way(server: FakeServer) -> None:
    server.script("Generate", [fake.accepted(), fake.until_hung_up])
    client = connect(server)
    with pytest.raises(ClientClosed):
        client.generate("a fox", on_event=lambda _: threading.Thread(target=client.close).start())
    with pytest.raises(ClientClosed):
        client.models()


def test_watching_a_job_gives_its_state_its_pictures_and_what_happens(server: FakeServer) -> None:
    server.script("WatchJob", [fake.accepted(), fake.image(), fake.finished()])
    with connect(server) as client:
        kinds = [type(event) for event in client.watch(JOB_ID)]
    assert kinds == [Accepted, ImageReady, Finished]


def test_watching_a_job_that_does_not_exist_is_not_found(server: FakeServer) -> None:
    server.script("WatchJob", [Error(grpc.StatusCode.NOT_FOUND, reason="JOB_NOT_FOUND")])
    with connect(server) as client, pytest.raises(NotFound):
        list(client.watch("nope"))
