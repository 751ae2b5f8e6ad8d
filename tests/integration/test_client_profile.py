"""`collodion profile` over the real measuring process."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import PIL.Image
import psutil
import pytest

from collodion.process.profile import read_profiles

BOUND_S = 90.0


def start(tmp_path: Path, *argv: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "collodion.client.cli", "profile", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"},
    )


def run(tmp_path: Path, *argv: str) -> tuple[int, str, str]:
    with start(tmp_path, *argv) as process:
        out, err = process.communicate(timeout=BOUND_S)
    return process.returncode, out, err


def test_the_simulated_model_costs_what_it_was_told_to_cost(tmp_path: Path) -> None:
    told = ("--set", "worker.simulated_step_ms=1:10,4:20", "--set", "worker.simulated_encode_ms=3")
    code, out, err = run(
        tmp_path, "simulated", "--batches", "1-2,4", "--sizes", "64x64", "--rounds", "3", *told, "--plot", "plot.png"
    )
    assert code == 0, err
    (profile,) = read_profiles(tmp_path / "profile.json").values()
    assert (profile.key, profile.rows, profile.device_kind) == ("simulated/64x64", 1, "simulated")
    assert sorted(profile.lanes) == ["decode", "encode", "step"]
    told = {"step": {1: 0.010, 2: 0.0133, 4: 0.020}, "encode": dict.fromkeys((1, 2, 4), 0.003)}
    for lane, costs in told.items():  # a busy machine adds to them, and nothing takes away
        assert profile.lanes[lane].keys() == costs.keys()
        assert all(profile.lanes[lane][size] > 0.99 * seconds for size, seconds in costs.items())
    assert profile.store_s
    assert f"{profile.name}: profile.json" in out
    assert "step an image" in out
    picture = PIL.Image.open(tmp_path / "plot.png")
    assert picture.size[0] == 1200
    assert len(picture.getcolors(1 << 20) or ()) > 20


def test_a_real_model_is_measured_and_other_profiles_in_the_file_stay(tmp_path: Path) -> None:
    first = run(tmp_path, "simulated", "--batches", "1", "--rounds", "1", "--output", "both.json")
    assert first[0] == 0, first[2]
    code, _, err = run(
        tmp_path, "shapes", "--device", "cpu", "--batches", "1,3", "--rounds", "1", "--output", "both.json"
    )
    assert code == 0, err
    simulated, shapes = read_profiles(tmp_path / "both.json").values()
    assert simulated.name == "simulated-simulated-512"
    assert shapes.key == "shapes/32x32"
    assert shapes.rows == 2, "it was measured with guidance"
    assert shapes.device_kind.startswith("cpu")
    assert "torch" in shapes.versions
    assert all(set(costs) == {1, 3} for costs in shapes.lanes.values())


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (("nobody",), "models: 'nobody' is neither shapes, nor simulated, nor NAME=/path/to/folder"),
        (("simulated", "--sizes", "65x64"), "sizes: 65x64 is not for model 'simulated'"),
        (("simulated", "--sizes", "large"), "sizes: 'large' is not WIDTHxHEIGHT"),
        (("simulated", "--batches", "4-1"), "batches: '4-1' is neither a number nor a range (1-16) up to 1024"),
        (("simulated", "--rounds", "0"), "--rounds: 0 is out of bounds"),
        (("simulated", "--plot", "plot.gif"), "--plot: plot.gif does not end in .png"),
        (("simulated", "--output", "taken.txt"), "--output: taken.txt is not JSON"),
        (("simulated", "--set", "scheduler.policy=fifo"), "--set scheduler.policy: only the worker is measured"),
        (("simulated", "--set", "worker.cake=1"), "cake"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(tmp_path: Path, argv: tuple[str, ...], complaint: str) -> None:
    (tmp_path / "taken.txt").write_text("dear diary")
    code, out, err = run(tmp_path, *argv)
    assert code == 2
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("collodion: ")
    assert complaint in line
    assert not (tmp_path / "profile.json").exists()


def test_interrupted_it_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    with start(tmp_path, "simulated", "--rounds", "1000", "--output", "never.json") as process:
        assert process.stderr is not None
        assert "measuring simulated" in process.stderr.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=BOUND_S)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not psutil.wait_procs(children, timeout=BOUND_S)[1]
    assert not (tmp_path / "never.json").exists()


def test_killed_it_takes_the_measuring_process_along(tmp_path: Path) -> None:
    with start(tmp_path, "simulated", "--rounds", "1000") as process:
        assert process.stderr is not None
        assert "measuring simulated" in process.stderr.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate(timeout=BOUND_S)
    assert children
    assert not psutil.wait_procs(children, timeout=BOUND_S)[1]


def test_a_scheduler_does_not_start_with_a_profile_that_it_cannot_use(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"unit": "s", "profiles": {"p": {"unet": [1]}}}))
    with tempfile.TemporaryDirectory(prefix="c") as folder:  # tmp_path is too long for a Unix socket
        flags = (f"--run-dir={folder}/run", f"--artifacts={folder}/artifacts", "--metrics-port=0", f"--profiles={path}")
        command = [sys.executable, "-m", "collodion.scheduler", *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BOUND_S)
    assert done.returncode == 2
    assert done.stderr == f'collodion scheduler: {path}: the unit has to be ms, and is "s"\n'
