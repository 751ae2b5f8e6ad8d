"""`collodion demo` over the real processes, with the simulated model."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import psutil
import pytest

BOUND_S = 60.0


@pytest.fixture
def private() -> Iterator[Path]:
    """Where the demo makes its run directory; tmp_path is too long for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="c") as directory:
        yield Path(directory)


def demo(private: Path, tmp_path: Path, *argv: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(private)}
    return subprocess.Popen(
        [sys.executable, "-m", "collodion.client.cli", "demo", *argv, "-o", str(tmp_path / "pictures")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_it_draws_a_picture_prints_its_path_and_leaves_nothing_behind(private: Path, tmp_path: Path) -> None:
    with demo(private, tmp_path, "a fox", "--model", "simulated", "--steps", "4", "--seed", "3") as process:
        out, err = process.communicate(timeout=BOUND_S)
    assert process.returncode == 0, err
    (path,) = map(Path, out.splitlines())
    assert path.parent == tmp_path / "pictures"
    assert path.name.endswith("-3.png")
    PIL.Image.open(path).verify()
    assert "worker-0 is ready" in err
    assert not list(private.iterdir())
    assert not [process for process in psutil.process_iter(["cmdline"]) if _mentions(process, private)]


def test_a_model_that_is_not_there_fails_with_the_last_words_of_the_worker(private: Path, tmp_path: Path) -> None:
    with demo(private, tmp_path, "--model", f"mine={tmp_path / 'nothing'}") as process:
        out, err = process.communicate(timeout=BOUND_S)
    assert process.returncode in (2, 4)
    assert out == ""
    assert "--- the last lines of worker-0" in err
    assert err.splitlines()[-1].startswith("collodion: worker-0 ")
    assert "collodion demo" not in err, "no traceback of ours"


def test_interrupted_it_stops_its_server(private: Path, tmp_path: Path) -> None:
    with demo(private, tmp_path, "--model", "simulated") as process:
        assert process.stderr is not None
        assert "starting" in process.stderr.readline()
        assert "is ready" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=BOUND_S)
    assert process.returncode == 130
    assert "stopping the server" in err
    assert "Traceback" not in err


def _mentions(process: psutil.Process, directory: Path) -> bool:
    return any(str(directory) in argument for argument in process.info["cmdline"] or ())
