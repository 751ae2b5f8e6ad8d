"""What a server on this machine consists of, and when a process of it is started again."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from collodion.client.stack.child import Role
from collodion.client.stack.errors import StackError
from collodion.client.stack.lock import owned
from collodion.client.stack.programs import Stack
from collodion.client.stack.restarts import RestartPolicy, Restarts, described
from collodion.process.config import load
from collodion.process.running import endpoint
from collodion.worker.config import WorkerConfig

POLICY = RestartPolicy(initial_s=1, factor=2, longest_s=5, well_s=30, attempts=3)


def flags(stack: Stack) -> dict[str, list[str]]:
    return {program.name: list(program.command[3:]) for program in stack.programs(Path("/run/x"))}


def test_by_default_there_is_one_of_each_and_the_rest_is_left_to_their_configuration() -> None:
    programs = Stack().programs(Path("/run/x"))
    assert [program.role for program in programs] == [Role.SCHEDULER, Role.FRONTEND, Role.WORKER]
    assert [list(program.command) for program in programs] == [
        [sys.executable, "-m", "collodion.scheduler", "--run-dir=/run/x"],
        [sys.executable, "-m", "collodion.frontend", "--run-dir=/run/x", "--name=frontend-0"],
        [sys.executable, "-m", "collodion.worker", "--run-dir=/run/x", "--name=worker-0"],
    ]


def test_every_device_has_a_worker_and_frontends_share_a_port() -> None:
    made = flags(Stack(models=("shapes", "mine=/m"), devices=("cuda:0", "cuda:1"), listen="0.0.0.0:1", frontends=2))
    assert list(made) == ["scheduler", "frontend-0", "frontend-1", "worker-0", "worker-1"]
    assert "--device=cuda:1" in made["worker-1"]
    assert "--models=shapes,mine=/m" in made["worker-1"]
    assert "--metrics-port=0" in made["worker-1"], "the port of the configuration is worker-0's"
    assert "--metrics-port=0" not in made["worker-0"]
    assert {"--listen=0.0.0.0:1", "--reuse-port=true"} <= set(made["frontend-0"]) & set(made["frontend-1"])


def test_a_directory_of_models_takes_the_place_of_the_embedded_one() -> None:
    alone, beside = (flags(Stack(models=models, models_dir=Path("/m")))["worker-0"] for models in ((), ("shapes",)))
    assert {"--models-dir=/m", "--models=,"} <= set(alone)
    assert {"--models-dir=/m", "--models=shapes"} <= set(beside)
    assert load(WorkerConfig, "worker", ["--models=,"], {}).models == ()


def test_what_makes_models_fast_reaches_every_worker() -> None:
    made = flags(Stack(devices=("cuda:0", "cuda:1"), optimize=("dtype=bfloat16", "sdxl:compile=regional")))
    assert all("--optimize=dtype=bfloat16,sdxl:compile=regional" in made[name] for name in ("worker-0", "worker-1"))
    read = load(WorkerConfig, "worker", ["--optimize=dtype=bfloat16,sdxl:compile=regional"], {})
    assert read.optimize == ("dtype=bfloat16", "sdxl:compile=regional")


def test_settings_reach_their_process_and_win() -> None:
    made = flags(Stack(policy="fifo", settings=[("worker", "max_batch", "4"), ("scheduler", "policy", "static")]))
    assert "--max-batch=4" in made["worker-0"]
    assert "--policy=static" in made["scheduler"]
    assert "--policy=fifo" not in made["scheduler"]
    assert not any("max-batch" in flag for flag in made["frontend-0"])


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        (("frontend", "name", "x"), "names that the server gives"),
        (("worker", "name", "x"), "names that the server gives"),
        (("scheduler", "run_dir", "/tmp/x"), "--run-dir"),
        (("worker", "run-dir", "/tmp/x"), "--run-dir"),
    ],
)
def test_a_setting_by_which_a_process_would_not_be_found_is_refused(setting: tuple[str, str, str], hint: str) -> None:
    with pytest.raises(StackError, match=hint) as caught:
        flags(Stack(settings=[setting]))
    assert caught.value.is_yours


def test_how_long_to_drain_is_passed_on_only_where_it_was_asked_for() -> None:
    assert "--drain-s=3.0" in flags(Stack(drain_s=3.0))["frontend-0"]
    assert "--drain-s=4" in flags(Stack(settings=[("frontend", "drain_s", "4")]))["frontend-0"]
    assert not any("drain" in flag for flag in flags(Stack())["frontend-0"])


@pytest.mark.parametrize(
    ("stack", "environment"),
    [
        (Stack(frontends=2, listen="127.0.0.1:0"), ""),
        (Stack(frontends=2, settings=[("frontend", "listen", "[::1]:0")]), ""),
        (Stack(frontends=2), "127.0.0.1:0"),
    ],
)
def test_frontends_that_would_not_share_a_port_are_refused(
    stack: Stack, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLODION_FRONTEND_LISTEN", environment)
    with pytest.raises(StackError, match="2 frontends share one port") as caught:
        flags(stack)
    assert caught.value.is_yours
    assert flags(dataclasses.replace(stack, frontends=1))


@pytest.mark.parametrize("role", list(Role))
def test_every_flag_that_is_passed_is_a_setting_of_its_process(role: Role, tmp_path: Path) -> None:
    config: Any = importlib.import_module(f"{role.value}.config")
    kinds = [kind for kind in vars(config).values() if dataclasses.is_dataclass(kind) and isinstance(kind, type)]
    (kind,) = [kind for kind in kinds if "run_dir" in {field.name for field in dataclasses.fields(kind)}]
    stack = Stack(
        models=("simulated",),
        devices=("cpu", "cpu"),
        listen="127.0.0.1:1",
        frontends=2,
        drain_s=3.0,
        policy="static",
        artifacts=tmp_path,
        log_format="json",
        log_level="debug",
    )
    process = role.value.rpartition(".")[2]
    for program in stack.programs(tmp_path):
        if program.role is role:
            assert load(kind, process, program.command[3:], environ={}).run_dir == tmp_path


def test_torch_is_asked_for_only_where_a_model_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLLODION_WORKER_MODELS", raising=False)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    Stack(models=("simulated",)).check_installation()
    with pytest.raises(StackError, match=r"the worker needs torch: pip install 'collodion\[all\]'"):
        Stack().check_installation()
    monkeypatch.setenv("COLLODION_WORKER_MODELS", "simulated")
    Stack().check_installation()


def test_pauses_double_up_to_the_longest_and_are_short_again_after_running_well() -> None:
    restarts = Restarts("worker-0", POLICY)
    assert [restarts.delay_s(-9, 3, True) for _ in range(5)] == [1, 2, 4, 5, 5]
    assert restarts.delay_s(-9, 31, True) == 1
    assert restarts.delay_s(0, 3, True) == 2


def test_a_process_that_never_becomes_ready_is_given_up() -> None:
    restarts = Restarts("worker-0", POLICY)
    restarts.delay_s(1, 0, False)
    restarts.delay_s(1, 0, True)
    restarts.delay_s(1, 0, False)
    restarts.delay_s(1, 0, False)
    with pytest.raises(StackError, match="worker-0 ended 3 times before it was ready, last with signal 11") as caught:
        restarts.delay_s(-11, 0, False)
    assert not caught.value.is_yours


def test_a_wrong_setting_is_given_up_at_once_and_is_yours() -> None:
    with pytest.raises(StackError, match="refuses its settings") as caught:
        Restarts("worker-0", POLICY).delay_s(2, 100, True)
    assert caught.value.is_yours
    assert described(2) == "exit code 2"


def test_a_run_directory_has_one_owner_whatever_becomes_of_it(tmp_path: Path) -> None:
    holder = (
        "import sys, pathlib; from collodion.client.stack.lock import owned\n"
        "with owned(pathlib.Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    )
    run_dir = Path(os.path.relpath(tmp_path / "run"))
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(run_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        with pytest.raises(StackError, match="another server runs in"), owned(run_dir):
            pass
        process.kill()
    with owned(run_dir) as absolute:
        assert absolute.is_absolute()
        assert absolute.samefile(tmp_path / "run")


def test_a_run_directory_may_be_named_relative_to_a_deep_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("deep" * 20)
    deep.mkdir()
    monkeypatch.chdir(deep)
    with owned(Path("..") / "run") as run_dir:
        assert run_dir == tmp_path.resolve() / "run"
        assert endpoint(Path("..") / "run", "worker") == f"ipc://{run_dir}/worker.sock"


def test_a_run_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StackError, match="writable by nobody else"), owned(tmp_path):
        pass
