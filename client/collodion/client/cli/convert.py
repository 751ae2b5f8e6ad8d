"""`collodion convert`: a pickled checkpoint becomes safetensors, without any of its code being run.

The reading is done by a process of the worker's (`collodion.worker.registry.converting`), which gets the two files open and can reach
nothing else; it ends with this one, whatever ends it. What it wrote takes its name only when it is whole.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from collodion.client.cli.foreign import shown
from collodion.client.stack import die_with_parent
from collodion.client.stack.errors import StackError

_NEEDED = ("msgspec", "numpy", "torch")
_ENDING = ".safetensors"
_SOON_S = 2.0  # what takes less needs no bar
_PATIENCE_S = 5.0
# A namespace of one's own is refused to a process that has threads already, as libraries make them when they are imported.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def convert(arguments: argparse.Namespace) -> None:
    """Converts, and says what came of it.

    Raises:
        StackError: it is no checkpoint, wants code to be run, or the result is not to be written.
        OSError: a file cannot be read or written.
    """
    source: Path = arguments.source
    target: Path = arguments.target or source.with_suffix(_ENDING)
    _check(source, target)
    console = Console(stderr=True)
    said: dict[str, Mapping[str, Any]] = {}
    with source.open("rb") as read, _appearing(target) as written:
        for event in _shown(_converted(read.fileno(), written, source), console):
            said[event["event"]] = event
    done, confined = said["done"], said["confined"]
    for what, why in (("files", "any file that you can read"), ("network", "the network")):
        if not confined[what]:
            print(
                f"collodion: this system let the converting process keep {why}; no code was run in it", file=sys.stderr
            )
    if done["dropped"]:
        print(shown(f"collodion: not taken along: {', '.join(done['dropped'])}"), file=sys.stderr)
    print(f"{target}: {done['tensors']} tensors, {done['bytes']} bytes")


def _check(source: Path, target: Path) -> None:
    missing = [module for module in _NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        raise StackError(f"converting needs {', '.join(missing)}: pip install 'collodion[worker]'", is_yours=True)
    if source.suffix.lower() == _ENDING:
        raise StackError(f"{source} is a {_ENDING} file already", is_yours=True)
    if not source.is_file():
        raise StackError(f"{source} is not a file", is_yours=True)
    if target.suffix.lower() != _ENDING:
        raise StackError(f"{target} does not end in {_ENDING}", is_yours=True)
    if target.exists():
        raise StackError(f"{target} is there already", is_yours=True)


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[int]:
    """A file to write to, which is `target` when all has gone well, and gone if not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem[:100]}-", suffix=".part")
    try:
        yield descriptor
        os.fchmod(descriptor, 0o666 & ~_umask())
        os.fsync(descriptor)
        os.link(name, target)  # unlike renaming it never replaces what somebody else made meanwhile
    finally:
        os.close(descriptor)
        Path(name).unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _converted(read: int, written: int, source: Path) -> Iterator[dict[str, Any]]:
    """What the converting process says. Raises StackError if it refuses or fails."""
    launcher = (sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()))
    command = (sys.executable, "-m", "collodion.worker.registry.converting", str(read), str(written))
    with tempfile.TemporaryFile("w+", errors="replace") as complaints:
        process = subprocess.Popen(  # noqa: S603  # our own command line
            (*launcher, *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            pass_fds=(read, written),
            start_new_session=True,
            env=os.environ | _ONE_THREAD,
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                yield json.loads(line)
            code = process.wait()
        finally:
            _ended(process)
        if code:
            complaints.seek(0)
            words = [line.strip() for line in complaints if line.strip()]
            why = words[-1] if words else f"the converting process ended with code {code}"
            raise StackError(shown(f"{source} is not converted: {why}"), is_yours=code == 2)


def _ended(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _shown(events: Iterable[dict[str, Any]], console: Console) -> Iterator[dict[str, Any]]:
    """The same events, while a bar shows how far it is, if it takes long."""
    columns = (TextColumn("converting"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task("converting", total=1.0)
    began = time.monotonic()
    try:
        for event in events:
            if event["event"] == "confined":  # until then it imports what it needs
                began = time.monotonic()
            elif event["event"] == "progress":
                if not progress.live.is_started and time.monotonic() - began > _SOON_S:
                    progress.start()
                progress.update(task, completed=event["share"])
            yield event
    finally:
        if progress.live.is_started:
            progress.stop()
