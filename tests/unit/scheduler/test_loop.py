"""The loop on real sockets: whatever its peers send, or fail to read, it goes on serving the others."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from prometheus_client import CollectorRegistry
from scheduler_world import TIERS, FakeFrontend, SimulatedWorker, spec

from collodion.process.running import announcement, endpoint
from collodion.scheduler.config import SchedulerConfig
from collodion.scheduler.journal import MemoryStore
from collodion.scheduler.loop import Loop
from collodion.scheduler.metrics import Metrics
from collodion.scheduler.prediction import Prediction
from collodion.wire.jobs import LatentId, Reason
from collodion.wire.sockets import DealerSocket
from collodion.wire.to_frontend import Ended, Previewed, ToFrontend
from collodion.wire.to_scheduler import PreviewMade, SubmitJob
from collodion.wire.to_worker import ToWorker

_PATIENCE_S = 20.0
_ROOT = Path(__file__).parents[3]


class Peer:
    """A peer of `scheduler_world` on a real socket."""

    def __init__(self, context: "zmq.Context[Any]", run_dir: Path, peer: Any) -> None:
        kind, messages = ("frontend", ToFrontend) if isinstance(peer, FakeFrontend) else ("worker", ToWorker)
        self.peer = peer
        self.socket: DealerSocket[Any] = DealerSocket(
            context, endpoint(run_dir, kind), peer.incarnation, messages, lambda: None
        )
        self._beat_at = 0.0

    def pump(self) -> None:
        if time.monotonic() >= self._beat_at:
            self.peer.beat()
            self._beat_at = time.monotonic() + 0.2
        if isinstance(self.peer, SimulatedWorker):
            self.peer.step()
        while self.peer.outbox and self.socket.send(self.peer.outbox[0][0], self.peer.outbox[0][1]):
            self.peer.outbox.popleft()
        while self.peer.reads and (received := self.socket.receive()) is not None:
            self.peer.hear(received[0])


class Server:
    """A scheduler on a thread, and its peers on ours."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.context: zmq.Context[Any] = zmq.Context()
        self.peers: list[Peer] = []
        self.start()

    def start(self) -> None:
        self.registry = CollectorRegistry()
        config = SchedulerConfig(run_dir=self.run_dir, grace_s=1.0, tiers=TIERS)
        self._loop = Loop(config, MemoryStore(), Metrics(self.registry))
        stopped, self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, args=(stopped,))
        self._thread.start()

    def stop(self) -> None:
        self._stop.close()
        self._thread.join(_PATIENCE_S)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.stop()
        for peer in self.peers:
            peer.socket.close()
        self.context.term()

    def add(self, peer: Any) -> Any:
        if isinstance(peer, SimulatedWorker):
            peer.reads = True
        self.peers.append(Peer(self.context, self.run_dir, peer))
        return peer

    def until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not happened():
            assert time.monotonic() < deadline, "it never happened"
            for peer in self.peers:
                peer.pump()
            time.sleep(0.001)  # the peers have no event to wait for: they are polled, with a bound

    def frontend(self, name: str = "frontend") -> FakeFrontend:
        frontend: FakeFrontend = self.add(FakeFrontend(name))
        self.until(lambda: bool(frontend.catalogue and frontend.catalogue.models))
        return frontend

    def draw(self, frontend: FakeFrontend) -> None:
        """A job from its submission to its end."""
        call = frontend.submit(spec(images=2))
        self.until(lambda: call not in frontend.watching)
        assert frontend.kinds(call)[-1] == "Ended"

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"collodion_scheduler_{name}", labels) or 0.0

    def _serve(self, stopped: socket.socket) -> None:
        with stopped:
            self._loop.run(stopped)
            self._loop.close()


@pytest.fixture
def run_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="cs-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def server(run_dir: Path) -> Iterator[Server]:
    server = Server(run_dir)
    server.add(SimulatedWorker("worker"))
    yield server
    server.close()


def raw(server: Server, kind: str) -> "zmq.Socket[Any]":
    dealer = server.context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(endpoint(server.run_dir, kind))
    return dealer


def test_a_job_runs_from_its_submission_to_its_end(server: Server) -> None:
    server.draw(server.frontend())
    assert server.metric("jobs_ended_total", outcome="finished", tier="standard") == 1
    assert server.metric("deadlines_total", met="true", tier="standard") == 1
    assert server.metric("job_seconds_count", tier="standard") == 1
    assert server.metric("events_sent_total", event="ImageStored") == 2
    assert server.metric("membership_latents_sum") >= 2


GARBAGE: list[list[bytes]] = [
    [b""],
    [b"", b""],
    [b"\xc1"],
    [b"\x00" * 100_000],
    [b"\x91" * 100_000],
    [msgspec.msgpack.encode({"type": "SubmitJob"})],
    [msgspec.msgpack.encode({"type": "SubmitJob", "call": "one", "spec": 5, "watch": None})],
    [msgspec.msgpack.encode({"type": "NoSuchMessage"})],
    [msgspec.msgpack.encode({"type": "WorkerLeft", "incarnation": "x", "more": 1})],
    [b"\xa4\xff\xff\xff\xff"],
    [msgspec.msgpack.encode(SubmitJob(1, spec(), True))[:-3]],
    [b"x"] * 1000,
    [os.urandom(64)],
]


@pytest.mark.parametrize("kind", ["frontend", "worker"])
def test_any_bytes_on_a_socket_are_survived(server: Server, kind: str) -> None:
    frontend = server.frontend()
    dealer = raw(server, kind)
    for frames in GARBAGE:
        dealer.send_multipart(frames)
    server.until(lambda: server.metric("decode_errors_total", peer=kind) >= len(GARBAGE))
    dealer.close()
    server.draw(frontend)


def test_a_flood_of_garbage_holds_nobody_up(server: Server) -> None:
    frontend = server.frontend()
    dealer = raw(server, "frontend")
    call = frontend.submit(spec(images=4, steps=20))
    for _ in range(50):
        for _ in range(40):
            dealer.send(b"\xc1garbage")
        for peer in server.peers:
            peer.pump()
    server.until(lambda: call not in frontend.watching)
    dealer.close()


def test_a_frontend_that_never_reads_holds_nobody_up_and_catches_up_when_it_does(server: Server) -> None:
    worker = server.peers[0]
    reader, stalled = server.frontend("reader"), server.frontend("stalled")
    call = stalled.submit(spec(steps=10**6, detach=True))
    server.until(lambda: "Accepted" in stalled.kinds(call))
    job = stalled.job(call)
    stalled.reads = False
    for step in range(1, 6001):
        made = PreviewMade(worker.peer.incarnation, worker.peer.scheduler, LatentId(job, 0), step, "image/webp")
        worker.peer.outbox.append((made, b"x" * 2000))
    server.until(lambda: server.metric("send_failures_total", peer="frontend") > 0)
    server.draw(reader)
    asked = reader.cancel(job)
    server.until(lambda: asked in reader.answers)
    assert call in stalled.watching
    stalled.reads = True
    server.until(lambda: call not in stalled.watching)
    assert isinstance(stalled.events[call][-1], Ended)
    assert 0 < len(stalled.of(call, Previewed)) == server.metric("events_sent_total", event="Previewed")


def test_peers_find_a_new_scheduler_and_learn_what_is_lost(server: Server) -> None:
    worker, frontend = server.peers[0].peer, server.frontend()
    call = frontend.submit(spec(steps=10**6))
    server.until(lambda: bool(worker.latents))
    before = worker.scheduler
    server.stop()
    server.start()
    server.until(lambda: call not in frontend.watching)
    assert frontend.answers[call].reason is Reason.SCHEDULER_RESTARTED
    server.until(lambda: worker.scheduler != before and not worker.latents)
    server.draw(frontend)


def test_a_defect_costs_one_message_and_is_counted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    frontend = server.frontend()

    def breaks(*_: Any) -> float:
        monkeypatch.undo()
        raise ZeroDivisionError

    monkeypatch.setattr(Prediction, "finish", breaks)
    asked = frontend.get("no such job")
    call = frontend.submit(spec(), watch=False)
    server.until(lambda: asked in frontend.answers)
    server.until(lambda: server.metric("handler_errors_total") == 1)
    assert call not in frontend.answers
    server.draw(frontend)
    assert server.metric("handler_errors_total") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_announces_itself_and_ends_in_order(run_dir: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "collodion.scheduler", f"--run-dir={run_dir}", "--metrics-port=0"]
    with subprocess.Popen([*command, f"--artifacts={run_dir}/artifacts"], cwd=_ROOT) as process:
        deadline = time.monotonic() + _PATIENCE_S
        while (said := announcement(run_dir, "scheduler")) is None:
            assert time.monotonic() < deadline, "it never announced itself"
            time.sleep(0.01)
        assert said["pid"] == process.pid
        assert said["metrics"].startswith("127.0.0.1:")
        process.send_signal(number)
        assert process.wait(_PATIENCE_S) == 0
    assert announcement(run_dir, "scheduler") is None


def test_a_setting_that_makes_no_sense_ends_the_process_with_a_sentence(run_dir: Path) -> None:
    command = [sys.executable, "-m", "collodion.scheduler", f"--run-dir={run_dir}", "--default-tier=platinum"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False, cwd=_ROOT)
    assert ended.returncode == 2
    assert "default_tier platinum" in ended.stderr
