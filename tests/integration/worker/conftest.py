"""A scheduler that says what the test tells it to, and workers that listen to it."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from collodion.process.running import endpoint
from collodion.wire.jobs import LatentId, Parameters, Stage
from collodion.wire.sockets import RouterSocket
from collodion.wire.to_scheduler import (
    FromWorker,
    LatentReport,
    PreviewMade,
    WorkerReport,
    WorkerState,
)
from collodion.wire.to_worker import JobOrder, Membership, SchedulerBeat
from collodion.worker.config import WorkerConfig
from collodion.worker.process import Worker

BOUND_S = 30.0


class ScriptedScheduler:
    """Hears everything of one worker, says only what it is told to."""

    def __init__(self, run_dir: Path) -> None:
        self.incarnation = uuid.uuid4().hex
        self.context: zmq.Context[Any] = zmq.Context()
        self.router: RouterSocket[FromWorker] = RouterSocket(
            self.context, endpoint(run_dir, "worker"), FromWorker, lambda: None
        )
        self.heard: list[FromWorker] = []
        self.previews: list[bytes] = []
        self.peer = b""
        self.worker = ""
        self.number = 0

    def close(self) -> None:
        self.router.close()
        self.context.term()

    def hear(self, is_it: Callable[[FromWorker], bool]) -> FromWorker:
        """The first message from now on for which `is_it`."""
        deadline = time.monotonic() + BOUND_S
        while time.monotonic() < deadline:
            self.router.socket.poll(100)
            while (received := self.router.receive()) is not None:
                self.peer, message, opaque = received
                self.heard.append(message)
                if isinstance(message, PreviewMade):
                    self.previews.append(opaque)
                if isinstance(message, WorkerState):
                    self.worker = message.incarnation
                if is_it(message):
                    return message
        raise AssertionError(f"not heard; last: {self.heard[-3:]}")

    def hello(self) -> WorkerState:
        """Waits for the worker's state."""
        state = self.hear(lambda message: isinstance(message, WorkerState))
        assert isinstance(state, WorkerState)
        return state

    def beat(self) -> None:
        self.router.send(self.peer, SchedulerBeat(scheduler=self.incarnation))

    def wish(self, **fields: Any) -> Membership:
        """Sends the next membership; any field may be overridden."""
        self.number += 1
        said = {"scheduler": self.incarnation, "worker": self.worker, "number": self.number, "running": (), **fields}
        membership = Membership(**said)
        assert self.router.send(self.peer, membership)
        return membership

    def latent(self, latent: LatentId, *stages: Stage) -> LatentReport:
        """Waits until this latent is reported at one of the stages."""

        def is_it(message: FromWorker) -> bool:
            return any(report.id == latent and report.stage in stages for report in _reports(message))

        message = self.hear(is_it)
        return next(report for report in _reports(message) if report.id == latent and report.stage in stages)

    def applied(self, number: int) -> WorkerReport | WorkerState:
        """Waits until the worker says that it applied this membership."""
        message = self.hear(
            lambda said: (
                isinstance(said, WorkerReport | WorkerState)
                and (said.scheduler, said.membership) == (self.incarnation, number)
            )
        )
        assert isinstance(message, WorkerReport | WorkerState)
        return message

    def report(self, number: int) -> WorkerReport:
        """Waits for a report on what became of this membership."""
        message = self.hear(lambda said: isinstance(said, WorkerReport) and said.membership == number)
        assert isinstance(message, WorkerReport)
        return message


def _reports(message: FromWorker) -> tuple[LatentReport, ...]:
    return message.latents if isinstance(message, WorkerReport | WorkerState) else ()


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[ScriptedScheduler]:
    scheduler = ScriptedScheduler(tmp_path)
    yield scheduler
    scheduler.close()


@pytest.fixture
def another_scheduler(tmp_path: Path) -> Iterator[Callable[[], ScriptedScheduler]]:
    """Starts a successor at the same place; the first one has to be closed before."""
    started: list[ScriptedScheduler] = []

    def start() -> ScriptedScheduler:
        started.append(ScriptedScheduler(tmp_path))
        return started[-1]

    yield start
    for scheduler in started:
        scheduler.close()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """A worker with simulated models, in threads of this process."""
    running: list[tuple[Worker, threading.Thread]] = []

    def start(**settings: Any) -> Worker:
        fast = {
            "simulated_step_ms": ("1",),
            "simulated_encode_ms": ("1",),
            "simulated_decode_ms": ("1",),
            "beat_s": 0.2,
        }
        places = {"run_dir": tmp_path, "artifacts": tmp_path / "artifacts", "metrics_port": 0}
        worker = Worker(WorkerConfig(**{"models": ("simulated",), **fast, **places, **settings}))
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        running.append((worker, thread))
        return worker

    yield start
    for worker, thread in running:
        worker.end()
        thread.join(BOUND_S)
        assert not thread.is_alive()


@pytest.fixture
def order() -> Callable[..., JobOrder]:
    """Orders with sensible parameters; any may be overridden."""

    def make(job: str = "job", preview_interval: int = 0, **fields: Any) -> JobOrder:
        parameters = {
            "model": "simulated",
            "prompt": "a red circle",
            "negative_prompt": "",
            "width": 64,
            "height": 64,
            "steps": 4,
            "sampler": "euler",
            "guidance_scale": 7.5,
            "seed": 7,
            "images": 1,
        }
        return JobOrder(job=job, parameters=Parameters(**{**parameters, **fields}), preview_interval=preview_interval)

    return make
