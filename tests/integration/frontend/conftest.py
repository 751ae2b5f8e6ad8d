"""A frontend on a thread, a scheduler that says what the test tells it to, and a gRPC channel between test and frontend."""

import asyncio
import concurrent.futures
import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
import uvloop
import zmq

from collodion.frontend.config import Config
from collodion.frontend.server import Frontend
from collodion.process.running import endpoint
from collodion.v1 import generation_pb2_grpc, model_pb2, model_pb2_grpc
from collodion.wire import jobs, to_frontend
from collodion.wire.sockets import RouterSocket
from collodion.wire.to_scheduler import FromFrontend, FrontendBeat, SubmitJob
from collodion.wire.to_worker import SchedulerBeat

BOUND_S = 10.0
MODEL = jobs.ModelInfo(
    name="shapes",
    family="stable-diffusion",
    native_width=128,
    native_height=128,
    min_size=64,
    max_size=512,
    size_multiple=8,
    default_steps=20,
    max_steps=50,
    default_sampler="ddim",
    samplers=("ddim", "euler"),
    default_guidance_scale=3.0,
    max_prompt_tokens=77,
    dtype="float32",
    refused_samplers=(jobs.RefusedSampler("lcm", "needs a distilled model"),),
)
CATALOGUE = to_frontend.Catalogue(
    models=((MODEL, 1),),
    tiers=(to_frontend.TierInfo("standard", 60.0), to_frontend.TierInfo("batch")),
    default_model="shapes",
    default_tier="standard",
)


def waiting(spec: jobs.JobSpec, job: str) -> to_frontend.JobView:
    """A job that has just been accepted."""
    progress = tuple(
        to_frontend.ImageProgress(index, jobs.Stage.WAITING, 0, spec.parameters.steps)
        for index in range(spec.parameters.images)
    )
    state = jobs.JobState.QUEUED
    return to_frontend.JobView(job, spec, state, created=100.0, place=0, progress=progress, images=())


class FakeScheduler:
    """The scheduler's side of the socket, driven by the test; beats on a thread of its own until told to be silent."""

    def __init__(self, run_dir: Path, incarnation: str = "first") -> None:
        self.incarnation = incarnation
        self.catalogue = CATALOGUE
        self.peer = b""
        self.beats: list[FrontendBeat] = []
        self.silent = False
        self._context = zmq.Context()
        self._lock = threading.RLock()
        self.router: RouterSocket[FromFrontend] = RouterSocket(
            self._context, endpoint(run_dir, "frontend"), FromFrontend, lambda: None
        )

    def meet(self, channel: grpc.Channel) -> None:
        """Until the frontend behind `channel` has heard of this scheduler and its models."""
        self.hear_beat()
        models = model_pb2_grpc.ModelServiceStub(channel)
        deadline = time.monotonic() + BOUND_S
        while True:
            try:
                models.ListModels(model_pb2.ListModelsRequest(), timeout=BOUND_S)
                return
            except grpc.RpcError:
                assert time.monotonic() < deadline, "the frontend has not heard of the models"

    def hear(self, bound_s: float = BOUND_S) -> FromFrontend:
        """The next message that is no beat; beats are answered by the way."""
        deadline = time.monotonic() + bound_s
        while time.monotonic() < deadline:
            message = self._hear_any(deadline)
            if message is not None and not isinstance(message, FrontendBeat):
                return message
        raise AssertionError("the frontend said nothing")

    def hear_beat(self, that: Callable[[FrontendBeat], bool] = lambda _: True) -> FrontendBeat:
        """The next beat for which `that` holds; other messages on the way are lost."""
        deadline = time.monotonic() + BOUND_S
        while time.monotonic() < deadline:
            message = self._hear_any(deadline)
            if isinstance(message, FrontendBeat) and that(message):
                return message
        raise AssertionError("no such beat")

    def submitted(self) -> SubmitJob:
        """The next message, a SubmitJob."""
        message = self.hear()
        assert isinstance(message, SubmitJob), message
        return message

    def say(self, message: msgspec.Struct, opaque: bytes = b"") -> None:
        """Says it to the frontend."""
        deadline = time.monotonic() + BOUND_S
        while not self.router.send(self.peer, message, opaque):
            assert time.monotonic() < deadline, "the frontend does not take it"
            self.router.socket.poll(1)

    def tell(self, call: int, event: Any, opaque: bytes = b"", job: str = "job-1") -> None:
        """Says that something happened, to one call."""
        self.say(to_frontend.JobEvent((call,), job, 123.25, event), opaque)

    def accept(self, submit: SubmitJob, job: str = "job-1") -> int:
        """Accepts a job; returns the call."""
        self.tell(submit.call, to_frontend.Accepted(waiting(submit.spec, job)), job=job)
        return submit.call

    def close(self) -> None:
        """Goes away without a word."""
        self.router.close()
        self._context.term()

    def _hear_any(self, deadline: float) -> FromFrontend | None:
        if not self.router.socket.poll(max(0, (deadline - time.monotonic()) * 1000)):
            return None
        received = self.router.receive()
        if received is None:
            return None
        self.peer, message, _ = received
        if isinstance(message, FrontendBeat) and not self.silent:
            self.say(SchedulerBeat(self.incarnation))
            self.say(self.catalogue)
        return message


class Running:
    """A frontend on a thread with a uvloop of its own."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.frontend: Frontend
        self.loop: asyncio.AbstractEventLoop
        self._ready = threading.Event()
        self._ended: asyncio.Event
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()))
        self._thread.start()
        assert self._ready.wait(BOUND_S)
        self.channel = grpc.insecure_channel(self.frontend.address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.generation = generation_pb2_grpc.GenerationServiceStub(self.channel)
        self.models = model_pb2_grpc.ModelServiceStub(self.channel)

    def on_loop(self, coroutine: Any) -> Any:
        """Runs `coroutine` on the frontend's loop; returns its future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def metric(self, name: str, **labels: str) -> float:
        """A sample of the frontend's metrics, 0 if there is none."""
        return self.frontend.registry.get_sample_value(f"collodion_frontend_{name}", labels) or 0.0

    def wait_for_metric(self, value: float, name: str, **labels: str) -> None:
        """Until the sample has this value."""
        deadline = time.monotonic() + BOUND_S
        while (found := self.metric(name, **labels)) != value:
            assert time.monotonic() < deadline, f"{name} is {found}, not {value}"
            time.sleep(0.005)  # a counter has no event to wait for

    def stop(self) -> None:
        """Stops it, cutting off what runs."""
        self.channel.close()
        self.loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(BOUND_S)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self.frontend = Frontend(self.config)
        await self.frontend.start()
        self._ready.set()
        await self._ended.wait()
        await self.frontend.stop()


@pytest.fixture
def config() -> Iterator[Config]:
    with tempfile.TemporaryDirectory() as folder:
        yield Config(
            listen="127.0.0.1:0",
            run_dir=Path(folder),
            artifacts=Path(folder) / "artifacts",
            metrics_port=0,
            beat_s=0.2,
            beats_missed=50,  # a test on a busy machine may be slow to answer a beat
        )


@pytest.fixture
def scheduler(config: Config) -> Iterator[FakeScheduler]:
    scheduler = FakeScheduler(config.run_dir)
    yield scheduler
    scheduler.close()


@pytest.fixture
def start(config: Config) -> Iterator[Callable[..., Running]]:
    """Starts a frontend with changed settings."""
    running = []

    def start(**changes: Any) -> Running:
        running.append(Running(dataclasses.replace(config, **changes)))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture
def running(start: Callable[..., Running], scheduler: FakeScheduler) -> Running:
    """A frontend that has heard the scheduler."""
    running = start()
    scheduler.meet(running.channel)
    return running


@pytest.fixture
def asking() -> Iterator[Callable[..., Any]]:
    """Calls a method on a thread; returns the future of its answer."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        yield lambda method, request, **options: pool.submit(method, request, timeout=10, **options)
