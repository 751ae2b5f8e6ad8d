"""A process that cannot use its settings says so in one sentence and ends with code 2, so that nobody starts it again."""

import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROLES = {"scheduler": (), "frontend": ("--listen=127.0.0.1:0",), "worker": ("--models=simulated",)}


@pytest.mark.parametrize("role", ROLES)
def test_a_metrics_port_that_is_taken(role: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = _refusal(role, f"--metrics-port={taken.getsockname()[1]}")
    assert "metrics_port: cannot listen on 127.0.0.1:" in said


@pytest.mark.parametrize("role", ROLES)
def test_a_log_level_that_does_not_exist(role: str) -> None:
    assert "one of debug, info, warning, error" in _refusal(role, "--log-level=chatty")


def _refusal(role: str, flag: str) -> str:
    with tempfile.TemporaryDirectory(prefix="c") as folder:
        places = (f"--run-dir={Path(folder) / 'run'}", f"--artifacts={Path(folder) / 'artifacts'}")
        command = [sys.executable, "-m", f"collodion.{role}", *places, *ROLES[role], flag]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr
