"""The client's calls other than streams of jobs, against a scripted server; blocking and asyncio side by side."""

import asyncio
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from collodion.client import (
    Accepted,
    AsyncClient,
    Client,
    ClientClosed,
    CorruptImage,
    Finished,
    ImageReady,
    InvalidRequest,
    JobFailed,
    JobLost,
    JobState,
    NotFound,
    NotReady,
    NotSupported,
    Progress,
    Reattached,
    ServerError,
    ServerUnavailable,
    TimedOut,
    Violation,
)
from collodion.v1 import generation_pb2, job_pb2, model_pb2
from tests.integration import fake_server as fake
from tests.integration.both_clients import FAST, Async, Blocking
from tests.integration.fake_server import BROKEN, JOB_ID, Error, FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture(params=[Blocking(), Async()], ids=["blocking", "asyncio"])
def call(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_submitting_gives_the_job(server: FakeServer, call: Any) -> None:
    server.script("CreateJob", generation_pb2.CreateJobResponse(job=fake.job(labels={"a": "b"})))
    job = call(server, "submit", "a fox", steps=4)
    assert (job.job_id, job.labels) == (JOB_ID, {"a": "b"})
    assert server.asked("CreateJob")[0].job.parameters.prompt == "a fox"


def test_submitting_again_after_a_failure_names_the_same_request(server: FakeServer, call: Any) -> None:
    server.script("CreateJob", BROKEN, BROKEN, generation_pb2.CreateJobResponse(job=fake.job()))
    call(server, "submit", "a fox")
    ids = {request.job.request_id for request in server.asked("CreateJob")}
    assert len(server.asked("CreateJob")) == 3
    assert len(ids) == 1


def test_jobs_are_listed_over_all_pages(server: FakeServer, call: Any) -> None:
    pages = [
        generation_pb2.ListJobsResponse(jobs=[fake.job(job_id="3"), fake.job(job_id="2")], next_page_token="more"),
        generation_pb2.ListJobsResponse(jobs=[fake.job(job_id="1")]),
    ]
    server.script("ListJobs", *pages)
    jobs = call(server, "list", states=[JobState.RUNNING, JobState.PARKED], labels={"a": "b"}, page_size=2)
    assert [job.job_id for job in jobs] == ["3", "2", "1"]
    first, second = server.asked("ListJobs")
    assert list(first.states) == [job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_PARKED]
    assert (first.page_size, first.labels, first.page_token, second.page_token) == (2, {"a": "b"}, "", "more")


def test_a_job_is_fetched_and_cancelled(server: FakeServer, call: Any) -> None:
    server.script("GetJob", generation_pb2.GetJobResponse(job=fake.job()))
    cancelled = fake.job(state=job_pb2.JOB_STATE_CANCELLED)
    server.script("CancelJob", generation_pb2.CancelJobResponse(job=cancelled))
    assert call(server, "get", JOB_ID).state is JobState.RUNNING
    assert call(server, "cancel", JOB_ID).state is JobState.CANCELLED


def test_models_are_listed_and_described(server: FakeServer, call: Any) -> None:
    server.script("ListModels", model_pb2.ListModelsResponse(models=[fake.model("a"), fake.model("shapes")]))
    server.script("GetModel", model_pb2.GetModelResponse(model=fake.model("a")))
    assert [(model.name, model.is_default) for model in call(server, "models")] == [("a", False), ("shapes", True)]
    assert call(server, "model", "a").refused_samplers == {"tcd": "needs distillation"}


def pieces(data: bytes, size: int) -> list[Any]:
    made = [
        generation_pb2.DownloadImageResponse(offset=offset, data=data[offset : offset + size])
        for offset in range(0, len(data), size)
    ]
    made[0].image.CopyFrom(fake.image_info(2, data))
    return made


def test_a_picture_is_downloaded_with_what_drew_it(server: FakeServer, call: Any) -> None:
    server.script("GetJob", generation_pb2.GetJobResponse(job=fake.job(4)))
    server.script("DownloadImage", [pieces(fake.png(), 20)[0], BROKEN], pieces(fake.png(), 20))
    image = call(server, "download", JOB_ID, 2)
    assert image.data == fake.png()
    assert (image.parameters.seed, image.parameters.images) == (9, 1)
    assert len(server.asked("DownloadImage")) == 2


def test_a_download_that_is_cut_short_is_refused(server: FakeServer, call: Any) -> None:
    server.script("GetJob", generation_pb2.GetJobResponse(job=fake.job(4)))
    server.script("DownloadImage", pieces(fake.png(), 20)[:-1])
    with pytest.raises(CorruptImage):
        call(server, "download", JOB_ID, 2)


@pytest.mark.parametrize(
    ("code", "kind", "attempts"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest, 1),
        (grpc.StatusCode.NOT_FOUND, NotFound, 1),
        (grpc.StatusCode.FAILED_PRECONDITION, NotReady, 1),
        (grpc.StatusCode.UNIMPLEMENTED, NotSupported, 1),
        (grpc.StatusCode.INTERNAL, ServerError, 1),
        (grpc.StatusCode.DEADLINE_EXCEEDED, TimedOut, 1),
        (grpc.StatusCode.UNAVAILABLE, ServerUnavailable, 3),
    ],
)
def test_errors_are_typed_and_only_unavailability_is_tried_again(
    server: FakeServer, call: Any, code: grpc.StatusCode, kind: type[Exception], attempts: int
) -> None:
    server.script("GetJob", Error(code, reason="WHY"))
    with pytest.raises(kind) as caught:
        call(server, "get", JOB_ID)
    assert type(caught.value) is kind
    assert len(server.asked("GetJob")) == attempts


def test_all_violations_of_a_request_come_along(server: FakeServer, call: Any) -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="job.parameters.width", description="has to be a multiple of 8")
    bad.field_violations.add(field="job.parameters.steps", description="has to be 1 to 150")
    server.script("CreateJob", Error(grpc.StatusCode.INVALID_ARGUMENT, reason="INVALID_FIELDS", details=(bad,)))
    with pytest.raises(InvalidRequest) as caught:
        call(server, "submit", "a fox", width=7, steps=0)
    assert caught.value.reason == "INVALID_FIELDS"
    assert caught.value.details.violations == (
        Violation("job.parameters.width", "has to be a multiple of 8"),
        Violation("job.parameters.steps", "has to be 1 to 150"),
    )


@pytest.mark.parametrize(
    ("method", "arguments", "options"),
    [
        ("get", ("\udcff",), {}),
        ("cancel", ("\udcff",), {}),
        ("watch", ("\udcff",), {}),
        ("model", ("\udcff",), {}),
        ("list", (), {"page_size": -1}),
    ],
)
def test_what_cannot_be_sent_is_the_callers_error(
    server: FakeServer, call: Any, method: str, arguments: tuple[str, ...], options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest, match="cannot be sent"):
        call(server, method, *arguments, **options)


@pytest.mark.parametrize("tenant", ["ä", "a\nb"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_tenant_that_cannot_be_sent_is_the_callers_error(kind: Any, tenant: str) -> None:
    with pytest.raises(InvalidRequest, match="tenant"):
        kind(tenant=tenant)


def test_a_call_that_is_not_answered_in_time_times_out(server: FakeServer, call: Any) -> None:
    server.script("ListModels", fake.until_hung_up)
    with pytest.raises(TimedOut, match="did not answer in time"):
        call(server, "models", timeout_s=0.1)
    assert len(server.asked("ListModels")) <= 1, "timeouts are not retried"


def test_a_server_that_is_not_there_is_unavailable(server: FakeServer, call: Any) -> None:
    server.stop()
    with pytest.raises(ServerUnavailable, match="cannot be reached"):
        call(server, "models")


def test_the_two_clients_have_the_same_methods_and_parameters() -> None:
    names = [name for name in vars(Client) if not name.startswith("_")]
    assert names == [name for name in vars(AsyncClient) if not name.startswith("_")]
    for name in [*names, "__init__"]:
        blocking, asynchronous = (inspect.signature(getattr(kind, name)) for kind in (Client, AsyncClient))
        assert blocking.parameters == asynchronous.parameters


# ------------------------------------------------------------------ streams of jobs, asyncio


def run_async(server: FakeServer, body: Any, **settings: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(server.address, **{"retries": FAST, "reattaching": FAST} | settings) as client:
            return await body(client)

    return asyncio.run(run())


def test_generate_draws_and_tells_while_it_waits(server: FakeServer) -> None:
    server.script("Generate", [fake.accepted(), fake.progress(2), fake.image(), fake.finished()])
    steps: list[int] = []
    generation = run_async(
        server, lambda client: client.generate("a fox", on_progress=lambda progress: steps.append(progress.step))
    )
    assert generation.images[0].data == fake.png()
    assert steps == [2]


def test_a_broken_stream_is_taken_up_again(server: FakeServer) -> None:
    server.script("Generate", [fake.accepted(2), fake.progress(1), fake.image(0), BROKEN])
    server.script("WatchJob", [fake.accepted(2), fake.image(0), fake.image(1), fake.finished()])

    async def kinds(client: AsyncClient) -> list[type]:
        return [type(event) async for event in client.stream("a fox", images=2)]

    expected = [Accepted, Progress, ImageReady, Reattached, ImageReady, Finished]
    assert run_async(server, kinds) == expected


def test_a_failed_job_and_a_lost_one_raise(server: FakeServer) -> None:
    server.script("Generate", [fake.accepted(), fake.failed()])
    with pytest.raises(JobFailed):
        run_async(server, lambda client: client.generate("a fox"))
    restarted = Error(grpc.StatusCode.UNAVAILABLE, reason="SCHEDULER_RESTARTED")
    server.script("Generate", [fake.accepted(), fake.image(), restarted])
    with pytest.raises(JobLost) as caught:
        run_async(server, lambda client: client.generate("a fox"))
    assert len(caught.value.images) == 1


def test_a_silent_stream_whose_server_is_away_is_taken_up_again(server: FakeServer) -> None:
    server.script("GetJob", BROKEN)
    server.script("Generate", [fake.accepted(), fake.until_hung_up])
    server.script("WatchJob", [fake.accepted(), fake.image(), fake.finished()])
    generation = run_async(server, lambda client: client.generate("a fox"), silence_s=0.05)
    assert len(generation.images) == 1


def test_a_silent_stream_is_waited_for_while_the_job_runs(server: FakeServer) -> None:
    asked = threading.Semaphore(0)

    def running(_: object) -> generation_pb2.GetJobResponse:
        asked.release()
        return generation_pb2.GetJobResponse(job=fake.job())

    def twice(_: object) -> None:
        for _again in range(2):
            assert asked.acquire(timeout=fake.BOUND_S)

    server.script("GetJob", running)
    server.script("Generate", [fake.accepted(), twice, fake.image(), fake.finished()])
    generation = run_async(server, lambda client: client.generate("a fox"), silence_s=0.05)
    assert len(generation.images) == 1
    assert not server.asked("WatchJob")


def test_nothing_accepted_in_time_times_out(server: FakeServer) -> None:
    server.script("Generate", [fake.until_hung_up])
    with pytest.raises(TimedOut):
        run_async(server, lambda client: client.generate("a fox"), timeout_s=0.1)


def test_a_cancelled_task_hangs_up(server: FakeServer) -> None:
    hung_up = threading.Event()
    server.script("Generate", [lambda context: context.add_callback(hung_up.set), fake.accepted(), fake.until_hung_up])

    async def cancel(client: AsyncClient) -> None:
        running = asyncio.Event()
        task = asyncio.create_task(client.generate("a fox", on_event=lambda _: running.set()))
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_async(server, cancel)
    assert hung_up.wait(fake.BOUND_S)
    assert not server.asked("WatchJob")


def test_closing_ends_what_is_under_way(server: FakeServer) -> None:
    server.script("Generate", [fake.accepted(), fake.until_hung_up])

    async def close(client: AsyncClient) -> None:
        running = asyncio.Event()
        task = asyncio.create_task(client.generate("a fox", on_event=lambda _: running.set()))
        await running.wait()
        await client.close()
        with pytest.raises(ClientClosed):
            await task

    run_async(server, close)


def test_many_jobs_share_one_client(server: FakeServer) -> None:
    server.script("Generate", [fake.accepted(), fake.image(), fake.finished()])

    async def many(client: AsyncClient) -> list[Any]:
        return await asyncio.gather(*(client.generate("a fox") for _ in range(20)))

    assert len(run_async(server, many)) == 20
