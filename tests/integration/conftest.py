"""A whole server as real processes, with the simulated model, for tests that kill, stall and confuse it."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from collodion.client import Client
from collodion.process.running import announcement

BOUND_S = 30.0


def wait_for(condition: Callable[[], Any], what: str, bound_s: float = BOUND_S) -> Any:
    """The first truthy value of `condition`; fails after `bound_s`."""
    deadline = time.monotonic() + bound_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {bound_s} s"
        time.sleep(0.01)  # between two looks at another process, which has no event to offer
    return value


class Stack:
    """Scheduler, frontend and worker on this machine, each a process that a test may kill and start again."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "run"
        self.artifacts = folder / "artifacts"
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._port = 0

    def start(self, name: str, *flags: str) -> None:
        """Starts `scheduler`, `frontend-N` or `worker-N`; returns when it is ready."""
        role = name.split("-")[0]
        shared = [f"--run-dir={self.run_dir}", f"--artifacts={self.artifacts}", "--metrics-port=0", "--log-format=json"]
        own = {
            "scheduler": [],
            "frontend": [f"--name={name}", f"--listen=127.0.0.1:{self._port}"],
            "worker": [f"--name={name}", "--models=simulated", "--simulated-step-ms=1:2", "--threads=1"],
        }[role]
        self.run_dir.mkdir(mode=0o700, exist_ok=True)
        (self.run_dir / f"{name}.json").unlink(missing_ok=True)  # what a killed predecessor left
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"collodion.{role}", *shared, *own, *flags],
                stderr=log,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        self._processes[name] = process
        wait_for(lambda: announcement(self.run_dir, name) or process.poll() is not None, f"{name} is ready")
        assert process.poll() is None, self.log(name).read_text()
        if role == "frontend":
            self._port = int(self.address.rsplit(":", 1)[1])  # a successor has to be found at the same address

    def start_all(self, *worker_flags: str) -> "Stack":
        """One of each."""
        self.start("scheduler")
        self.start("frontend-0")
        self.start("worker-0", *worker_flags)
        with self.client() as client:
            wait_for(lambda: any(model.workers for model in client.models()), "the frontend knows the worker's model")
        return self

    @property
    def address(self) -> str:
        """Where gRPC clients go."""
        found = announcement(self.run_dir, "frontend-0")
        return found["grpc"] if found else f"127.0.0.1:{self._port}"

    def client(self, **settings: Any) -> Client:
        """A client of this server."""
        return Client(self.address, **settings)

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def has_ended(self, name: str) -> bool:
        """Whether it ended by itself."""
        return self._processes[name].poll() is not None

    def kill(self, name: str) -> None:
        """kill -9, and waits until it is gone."""
        process = self._processes.pop(name)
        process.kill()
        process.wait(BOUND_S)

    def terminate(self, name: str) -> int:
        """SIGTERM; the exit code."""
        process = self._processes.pop(name)
        process.terminate()
        return process.wait(BOUND_S)

    def stop(self) -> dict[str, int]:
        """Ends everything in order; the exit codes by name."""
        names = sorted(self._processes, key=_order)
        return {name: self.terminate(name) for name in names}

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def metrics(self, name: str) -> dict[str, float]:
        """Every sample of its Prometheus endpoint, by `name{labels}`."""
        address = (announcement(self.run_dir, name) or {})["metrics"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=BOUND_S) as page:
            lines = page.read().decode().splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def abandon(self) -> None:
        """Kills whatever is left, so that no test leaves a process behind."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait(BOUND_S)


def _order(name: str) -> int:
    return ("frontend", "worker", "scheduler").index(name.split("-")[0])


@pytest.fixture
def stack() -> Iterator[Stack]:
    # Not tmp_path: its name is too long for a Unix socket.
    with tempfile.TemporaryDirectory(prefix="c") as folder:
        stack = Stack(Path(folder))
        yield stack
        stack.abandon()


@pytest.fixture
def eventually() -> Callable[..., Any]:
    return wait_for
