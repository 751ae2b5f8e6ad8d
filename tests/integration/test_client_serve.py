"""`collodion serve` as a process of its own, over small fake processes: order, restarts, giving up, and no orphans."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from collodion.process.running import announcement
from tests.integration import fake_stack

BOUND_S = 30.0
NAMES = ("scheduler", "frontend-0", "worker-0")


def eventually(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + BOUND_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {BOUND_S} s"
        time.sleep(0.01)  # between two looks at other processes, which have no event to offer
    return value


def _gone(pid: int) -> bool:
    # A child of a killed parent stays a zombie until this container's init looks at it.
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


class Server:
    def __init__(self, process: "subprocess.Popen[str]", run_dir: Path) -> None:
        self.process = process
        self.run_dir = run_dir

    def until_ready(self) -> "Server":
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready: 127.0.0.1:12345 (fake on cpu)\n"
        return self

    def pids(self) -> dict[str, int]:
        return {name: said["pid"] for name in NAMES if (said := announcement(self.run_dir, name))}

    def end(self, *signals: signal.Signals) -> str:
        """Its standard error."""
        for number in signals:
            self.process.send_signal(number)
        return self.process.communicate(timeout=BOUND_S)[1]


@contextmanager
def serving(run_dir: Path, *behaviours: str) -> Iterator[Server]:
    command = [sys.executable, fake_stack.__file__, str(run_dir), *behaviours]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        server = Server(process, run_dir)
        try:
            yield server
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_when_it_is_ready_and_ends_all_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path) as server:
        pids = server.until_ready().pids()
        said = announcement(tmp_path, "serve")
        assert said == {"pid": server.process.pid, "grpc": ["127.0.0.1:12345"]}
        report = server.end(number)
    assert server.process.returncode == 0
    assert len(pids) == 3
    assert all(map(_gone, pids.values()))
    ended = (tmp_path / "ended").read_text().split()
    assert ended[0] == "frontend-0", "frontends drain while the others still work"
    assert sorted(ended[1:]) == ["scheduler", "worker-0"]
    assert announcement(tmp_path, "serve") is None
    assert "worker-0 is ready after" in report
    assert "stopped" in report


def test_ctrl_c_in_the_terminal_reaches_the_supervisor_alone(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        pids = server.until_ready().pids()
        groups = {os.getpgid(pid) for pid in pids.values()}
        assert os.getpgid(server.process.pid) not in groups
        server.end(signal.SIGTERM)


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_process_is_started_again(tmp_path: Path, name: str) -> None:
    with serving(tmp_path) as server:
        before = server.until_ready().pids()
        os.kill(before[name], signal.SIGKILL)
        eventually(lambda: server.pids()[name] != before[name], f"another {name}")
        after = server.pids()
        report = server.end(signal.SIGTERM)
    assert {other: after[other] for other in NAMES if other != name} == {
        other: before[other] for other in NAMES if other != name
    }
    assert f"{name} ended with signal 9; it is started again" in report
    assert server.process.returncode == 0
    assert _gone(after[name])


def test_a_process_that_refuses_its_settings_ends_the_server_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, "worker-0=refuses") as server:
        report = server.end()
    assert server.process.returncode == 2
    assert "worker-0 refuses\n" in report, "its own last words are there"
    assert report.splitlines()[-1].startswith("collodion: worker-0 refuses its settings")
    assert not server.pids()


def test_a_process_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    with serving(tmp_path, "scheduler=dies") as server:
        report = server.end()
    assert server.process.returncode == 4
    assert report.count("scheduler dies") == 4
    assert "ended 4 times before it was ready, last with exit code 1" in report
    assert not server.pids()


def test_one_that_does_not_end_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path, "worker-0=stubborn") as server:
        pid = server.until_ready().pids()["worker-0"]
        report = server.end(signal.SIGTERM)
    assert "worker-0 does not end and is killed" in report
    assert server.process.returncode == 0
    assert _gone(pid)


def test_no_process_survives_a_killed_supervisor_and_its_successor_starts(tmp_path: Path) -> None:
    with serving(tmp_path, "worker-0=stubborn") as server:
        pids = server.until_ready().pids()
        server.end(signal.SIGKILL)
    for name, pid in pids.items():
        eventually(lambda pid=pid: _gone(pid), f"{name} is gone")
    with serving(tmp_path) as successor:
        assert not set(successor.until_ready().pids().values()) & set(pids.values())
        successor.end(signal.SIGTERM)
    assert successor.process.returncode == 0


def test_a_second_server_in_one_directory_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as first:
        first.until_ready()
        with serving(tmp_path) as second:
            report = second.end()
        assert second.process.returncode == 2
        assert "another server runs in" in report
        assert len(first.pids()) == 3
        first.end(signal.SIGTERM)


_INTERRUPTED_OFTEN = """
import signal
from collodion.client.cli.serve import _Stopping

with _Stopping() as stopping:
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    while stopping._count < 500:
        stopping.wait(0.0001)
    signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_a_signal_never_waits_for_the_thread_that_it_interrupts() -> None:
    subprocess.run([sys.executable, "-c", _INTERRUPTED_OFTEN], check=True, timeout=BOUND_S)
