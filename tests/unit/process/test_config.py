"""One frozen dataclass, four sources, and a clear error for everything else."""

import dataclasses
from enum import StrEnum
from pathlib import Path

import pytest

from collodion.process.config import load, setting


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the tester."""

    grace_s: float = setting(10.0, "Seconds.", low=0)
    max_batch: int = setting(16, "Rows.", low=1, high=64)
    colour: Colour = setting(Colour.RED, "Colour.")
    models: tuple[str, ...] = setting(("shapes",), "Models.")
    threads: int | None = setting(None, "Threads.", low=1)
    coalesce: bool = setting(True, "Coalesce.")
    run_dir: Path = setting(Path("/run"), "Directory.")


def read(*argv: str, file: Path | None = None, **environ: str) -> Settings:
    return load(Settings, "worker", [*(["--config", str(file)] if file else []), *argv], environ)


def test_without_any_source_the_defaults_hold() -> None:
    assert read() == Settings()


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "collodion.toml"
    file.write_text('[worker]\nmax_batch = 2\ngrace_s = 2\nmodels = ["a", "b"]\n')
    assert read(file=file) == Settings(max_batch=2, grace_s=2.0, models=("a", "b"))
    found = read("--grace-s", "4", file=file, COLLODION_WORKER_GRACE_S="3", COLLODION_WORKER_MAX_BATCH="3")
    assert found == Settings(max_batch=3, grace_s=4.0, models=("a", "b"))


def test_every_type_of_setting_can_be_given_as_text() -> None:
    found = read("--colour=blue", "--models=x,y", "--threads=2", "--coalesce=no", "--run-dir=/tmp/x")
    assert found == Settings(colour=Colour.BLUE, models=("x", "y"), threads=2, coalesce=False, run_dir=Path("/tmp/x"))
    assert read("--threads=none").threads is None


@pytest.mark.parametrize(
    ("argv", "environ", "complaint"),
    [
        (["--max-batch=0"], {}, "--max-batch: 0 is out of bounds (1 to 64)"),
        (["--grace-s=nan"], {}, "--grace-s: nan is out of bounds"),
        (["--max-batch=many"], {}, "'many' is not a whole number"),
        (["--colour=green"], {}, "one of red, blue"),
        (["--coalesce=maybe"], {}, "true or false"),
        (["--max-bat=2"], {}, "unrecognized arguments: --max-bat=2"),
        (["--nonsense=1"], {}, "unrecognized arguments: --nonsense=1"),
        ([], {"COLLODION_WORKER_NONSENSE": "1"}, "COLLODION_WORKER_NONSENSE is no setting of the worker"),
        (["--config=/nowhere.toml"], {}, "/nowhere.toml"),
    ],
)
def test_what_cannot_be_used_ends_the_process_with_a_sentence(
    argv: list[str], environ: dict[str, str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        load(Settings, "worker", argv, environ)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[worker]\nnonsense = 1", "[wroker]\nmax_batch = 1", "worker = 1", "[worker"])
def test_a_file_with_anything_unknown_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "collodion.toml"
    file.write_text(text)
    with pytest.raises(SystemExit):
        read(file=file)
    assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("max_batch = 1.5", "1.5 is not a whole number"),
        ("max_batch = 2.0", "2.0 is not a whole number"),
        ("max_batch = true", "True is not a whole number"),
        ("threads = 1.5", "1.5 is not a whole number"),
        ("grace_s = true", "True is not a number"),
        ("grace_s = [1]", "[1] is not a number"),
    ],
)
def test_a_number_in_a_file_has_to_be_of_its_kind(
    line: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "collodion.toml"
    file.write_text(f"[worker]\n{line}")
    with pytest.raises(SystemExit):
        read(file=file)
    assert complaint in capsys.readouterr().err


def test_another_process_may_have_its_own_table_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "collodion.toml"
    file.write_text("[scheduler]\nanything = 1")
    assert read(file=file) == Settings()
