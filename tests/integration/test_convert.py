"""`collodion convert` over the real converting process."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from collodion.client.cli.main import main

BOUND_S = 90.0


def run(tmp_path: Path, *argv: str, stderr: int = subprocess.PIPE) -> tuple[int, str, str]:
    process = subprocess.run(
        [sys.executable, "-m", "collodion.client.cli", "convert", *argv],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "120"},
        timeout=BOUND_S,
    )
    return process.returncode, process.stdout, process.stderr


class Touch:
    """Makes a file when it is unpickled by whoever runs what a pickle says."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_a_checkpoint_becomes_safetensors_without_a_bar_where_it_takes_no_time(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(300, 400), "b": torch.randn(7).half()}
    torch.save({"state_dict": tensors, "optimizer_states": [{"x": torch.ones(3)}]}, tmp_path / "old.ckpt")
    ours, terminal = pty.openpty()

    code, out, _ = run(tmp_path, "old.ckpt", stderr=terminal)

    os.close(terminal)
    assert (code, out) == (0, f"old.safetensors: 2 tensors, {(tmp_path / 'old.safetensors').stat().st_size} bytes\n")
    with pytest.raises(OSError, match="Input/output error"):  # how Linux says that nothing was written
        os.read(ours, 1)
    os.close(ours)
    found = load_file(tmp_path / "old.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert found.keys() == tensors.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.ckpt", "old.safetensors"]
    mode = (tmp_path / "old.safetensors").stat().st_mode & 0o777
    assert mode == (tmp_path / "old.ckpt").stat().st_mode & 0o777


def test_a_pickle_that_wants_to_run_something_is_refused_and_nothing_ran(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": Touch(tmp_path / "trace")}, tmp_path / "evil.ckpt")

    code, out, err = run(tmp_path, "evil.ckpt", "good.safetensors")

    assert (code, out) == (2, "")
    assert err == (
        "collodion: evil.ckpt is not converted: it wants posix.system when it is opened, which no tensor needs:"
        " nothing of it was run\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["evil.ckpt"]


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("none.ckpt",), "none.ckpt is not a file"),
        (("a.safetensors",), "is a .safetensors file already"),
        (("a.ckpt", "b.bin"), "does not end in .safetensors"),
        (("a.ckpt", "a.safetensors"), "is there already"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(
    tmp_path: Path, argv: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.ckpt", "a.safetensors"):
        (tmp_path / name).write_bytes(b"")
    before = signal.getsignal(signal.SIGINT)
    assert main(["convert", *argv]) == 2
    signal.signal(signal.SIGINT, before)
    (said,) = capsys.readouterr().err.splitlines()
    assert why in said
