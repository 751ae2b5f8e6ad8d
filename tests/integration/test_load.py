"""Load from outside, in short: `load.py` and the Locust file against real processes with the simulated model."""

import json
import subprocess
import sys
from pathlib import Path

import load
import pytest

from server import running_server

ROOT = Path(__file__).resolve().parents[2]
COSTS = {"clip": [2, 2], "unet": [4, 5, 6, 7], "vae": [3, 4]}


@pytest.fixture
def profile(tmp_path: Path) -> str:
    file = tmp_path / "profile.json"
    file.write_text(json.dumps({"unit": "ms", "profiles": {"fast-sd-64": COSTS}}))
    return f"{file}:fast-sd-64"


def test_an_open_loop_run_counts_every_request_and_is_replayed(profile: str, tmp_path: Path) -> None:
    output, plot = tmp_path / "load.json", tmp_path / "load.png"
    asked = ["--workload=gamma", "--steps=5-10", "--jobs=8", "--load=0.5", "--slo-scale=100"]
    load.main(
        [
            "--model=simulated",
            f"--profile={profile}",
            *asked,
            "--replay",
            "--records",
            f"--json={output}",
            f"--plot={plot}",
        ]
    )
    real, replay = json.loads(output.read_text())["runs"]
    assert (real["replayed"], replay["replayed"]) == (False, True)
    assert [record["outcome"] for record in real["records"]] == ["finished"] * 8
    assert (real["figures"]["unanswered"], real["figures"]["told"]) == (0, 1.0)
    assert real["figures"]["evaluations"] == replay["figures"]["evaluations"]
    assert plot.exists()


def test_users_of_a_closed_loop_ask_one_contender_after_the_other(profile: str, tmp_path: Path) -> None:
    output = tmp_path / "load.json"
    contenders = ["--policy=static,static_timeout_s=0.01", "--policy=fifo"]
    users = ["--users", "1", "3", "--requests=2", "--steps=5"]
    load.main(["--model=simulated", f"--profile={profile}", *contenders, *users, f"--json={output}"])
    runs = json.loads(output.read_text())["runs"]
    assert [(run["policy"], run["users"]) for run in runs] == [
        ("static,static_timeout_s=0.01", 1),
        ("fifo", 1),
        ("fifo", 3),
        ("static,static_timeout_s=0.01", 3),
    ]
    assert [run["figures"]["evaluations"] for run in runs] == [10, 10, 30, 30]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--server=127.0.0.1:1"], "needs --profile"),
        (["--users", "2", "--replay"], "--replay needs"),
        (["--server=127.0.0.1:1", "--replay"], "--replay needs"),
        (["--profile=/nowhere:none"], "no file of profiles"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_a_sentence(flags: list[str], why: str) -> None:
    with pytest.raises(SystemExit, match=why):
        load.main(flags)


def test_a_server_that_runs_already_is_loaded_too(profile: str, capsys: pytest.CaptureFixture[str]) -> None:
    with running_server("--model=simulated", "--set=worker.simulated_step_ms=1:2") as server:
        load.main([f"--server={server.address}", "--model=simulated", f"--profile={profile}", "--jobs=4", "--steps=3"])
    assert "| server |" in capsys.readouterr().out


def test_locust_asks_for_the_same_workload() -> None:
    with running_server("--model=simulated", "--set=worker.simulated_step_ms=1:2") as server:
        command = [str(Path(sys.executable).with_name("locust")), "-f", str(ROOT / "benchmarks/locustfile.py")]
        asked = ["--model=simulated", "--size=64", "--steps=2-5", "--jobs=12"]
        users = ["--headless", "-u4", "-r4", f"--host={server.address}", "--json"]
        done = subprocess.run([*command, *users, *asked], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    told = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert {name: (each["num_requests"], each["num_failures"]) for name, each in told.items()} == {
        "answer": (12, 0),
        "pictures": (12, 0),
    }
