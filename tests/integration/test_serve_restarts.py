"""`collodion serve` with the real processes: whichever of them is killed comes back, and the job is drawn to its end."""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from collodion.client import Client
from collodion.process.running import announcement

FREE_PORTS = [f"--set={process}.metrics_port=0" for process in ("frontend", "scheduler", "worker")]


@pytest.fixture
def served(eventually: Callable[..., Any]) -> Iterator[Path]:
    """The run directory of a server with the simulated model, 20 ms a step."""
    with tempfile.TemporaryDirectory(prefix="c") as folder:
        run_dir = Path(folder) / "run"
        own = [f"--run-dir={run_dir}", f"--artifacts={folder}/artifacts", "--listen=127.0.0.1:0", "--model=simulated"]
        command = [sys.executable, "-m", "collodion.client.cli", "serve", *own, "--set=worker.simulated_step_ms=1:20"]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen([*command, *FREE_PORTS], stdout=log, stderr=log, start_new_session=True)
            try:
                eventually(lambda: announcement(run_dir, "serve"), "the server is ready")
                yield run_dir
                process.send_signal(signal.SIGINT)
                assert process.wait(60) == 0
            finally:
                process.kill()
                process.wait(60)


def test_a_killed_worker_is_started_again_and_its_job_finished(served: Path, eventually: Callable[..., Any]) -> None:
    steps: list[int] = []
    killed = announced_pid(served, "worker-0")
    with Client(announcement(served, "serve")["grpc"][0]) as client, ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(
            client.generate, "a fox", steps=40, width=64, height=64, on_progress=lambda event: steps.append(event.step)
        )
        eventually(lambda: len(steps) >= 5, "the job runs")
        os.kill(killed, signal.SIGKILL)
        assert len(drawing.result(60).images) == 1
    assert announced_pid(served, "worker-0") != killed
    assert any(later < earlier for earlier, later in itertools.pairwise(steps))  # it began anew


def announced_pid(run_dir: Path, name: str) -> int:
    said = announcement(run_dir, name)
    assert said is not None
    return int(said["pid"])
