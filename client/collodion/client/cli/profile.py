"""`collodion profile`: what a model's stages cost on this machine, measured with no server running.

The measuring is done by a process of the worker's (`collodion.worker.profiling`), which ends with this one, whatever ends it. This
one shows how far it is, and writes what it found: a profile that `collodion serve` can begin with, a table, and a plot.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from collodion.client.cli import profile_plot
from collodion.client.cli.foreign import shown
from collodion.client.stack import die_with_parent
from collodion.client.stack.errors import StackError
from collodion.process.config import ConfigError
from collodion.process.profile import Profile, read_profiles, write_profiles

_NEEDED = ("msgspec", "numpy", "prometheus_client", "zmq")
_NEEDED_BY_MODELS = ("torch", "diffusers", "transformers", "safetensors")
_SPEAKER = re.compile("^(collodion worker|python -m collodion.worker: error): ")
_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Measured:
    """A profile, and the quartiles of its measurements: seconds by batch size, by lane."""

    profile: Profile
    quartiles: Mapping[str, Mapping[int, tuple[float, float]]]


def profile(arguments: argparse.Namespace) -> None:
    """Measures, writes the profile and prints the table.

    Raises:
        StackError: it cannot be measured, or what is there already is not to be overwritten. OSError: a file cannot be written.
    """
    _check(arguments)
    console = Console(stderr=True)
    said = list(_measured(_command(arguments), console))
    for missing in (event for event in said if event["event"] == "left_out"):
        where = f"{missing['lane']} at batch {missing['batch']}, {missing['size']}"
        print(f"collodion: {where} does not fit the memory; it and what is larger is left out", file=sys.stderr)
    results = [_result(event) for event in said if event["event"] == "profile"]
    if not results:
        raise StackError("the measuring process ended without a profile", is_yours=False)
    for result in results:
        Console().print(_table(result.profile))
    write_profiles(arguments.output, [result.profile for result in results])
    print(*(f"{result.profile.name}: {arguments.output}" for result in results), sep="\n")
    if arguments.plot:
        profile_plot.draw([(each.profile, each.quartiles) for each in results]).save(arguments.plot)
        print(f"plot: {arguments.plot}")
    print(f"collodion: `collodion serve --set scheduler.profiles={arguments.output}` begins with it", file=sys.stderr)


# ---------------------------------------------------------------------- before


def _check(arguments: argparse.Namespace) -> None:
    """Whatever can go wrong afterwards, before the minutes are spent."""
    needed = _NEEDED if arguments.model == "simulated" else _NEEDED + _NEEDED_BY_MODELS
    missing = [module for module in needed if importlib.util.find_spec(module) is None]
    if missing:
        raise StackError(f"measuring needs {', '.join(missing)}: pip install 'collodion[worker]'", is_yours=True)
    if arguments.output.exists():
        try:
            read_profiles(arguments.output)
        except ConfigError as error:
            raise StackError(f"--output: {error}", is_yours=True) from error
    for path in filter(None, (arguments.output, arguments.plot)):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise StackError(f"{path} is a directory", is_yours=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass  # what can be made here can be made there
    if arguments.plot and arguments.plot.suffix.lower() != ".png":
        raise StackError(f"--plot: {arguments.plot} does not end in .png", is_yours=True)


def _command(arguments: argparse.Namespace) -> list[str]:
    settings = {
        "models": arguments.model,
        "device": arguments.device,
        "sizes": arguments.sizes,
        "batches": arguments.batches,
        "rounds": arguments.rounds,
        "config": arguments.config,
    }
    chosen = {name: str(value) for name, value in settings.items() if value is not None}
    for process, name, value in arguments.settings:
        if process != "worker":
            raise StackError(f"--set {process}.{name}: only the worker is measured", is_yours=True)
        chosen[name] = value
    flags = (f"--{name.replace('_', '-')}={value}" for name, value in chosen.items())
    return [sys.executable, "-m", "collodion.worker.profiling", *flags]


# ---------------------------------------------------------------------- meanwhile


def _measured(command: list[str], console: Console) -> Iterator[dict[str, Any]]:
    """What the measuring process says, while a bar shows how far it is. Raises StackError if it fails."""
    with tempfile.TemporaryFile("w+", errors="replace") as complaints, _running(command, complaints) as process:
        assert process.stdout is not None
        with _Bar(console) as bar:
            for line in process.stdout:
                event = json.loads(line)
                bar.take(event)
                yield event
        if code := process.wait():
            complaints.seek(0)
            words = [line.strip() for line in complaints if line.strip()] or [f"it ended with code {code}"]
            raise StackError(shown(_SPEAKER.sub("", words[-1])), is_yours=code == 2)


@contextlib.contextmanager
def _running(command: list[str], complaints: TextIO) -> Iterator["subprocess.Popen[str]"]:
    """The process, in a session of its own, so that Ctrl-C reaches this one alone; it is gone afterwards."""
    launcher = (sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()))
    process = subprocess.Popen(  # noqa: S603  # our own command line
        (*launcher, *command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=complaints,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:  # a model call cannot be interrupted
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


class _Bar:
    """The bar on a terminal, two lines elsewhere."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("loading the model", total=None)

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def take(self, event: Mapping[str, Any]) -> None:
        """Shows how far it is."""
        if event["event"] == "loaded":
            line = f"collodion: measuring {event['model']} on {event['device']} ({event['device_kind']})"
            self._progress.console.print(shown(line), markup=False, highlight=False, emoji=False, soft_wrap=True)
            self._progress.update(self._task, total=event["total"])
        elif event["event"] == "measured":
            what = f"{event['size']} {event['lane']} at batch {event['batch']}"
            self._progress.update(self._task, advance=1, description=f"{what:<28}")


# ---------------------------------------------------------------------- afterwards


def _result(event: Mapping[str, Any]) -> Measured:
    profile = Profile(
        name=_name(event),
        lanes={lane: _by_batch(costs) for lane, costs in event["lanes"].items()},
        key=event["key"],
        device_kind=event["device_kind"],
        rows=event["rows"],
        store_s=event["store_s"],
        spread={lane: min(1.0, share) for lane, share in event["spread"].items()},
        versions=event["versions"],
    )
    return Measured(profile, {lane: _by_batch(ranges) for lane, ranges in event["quartiles"].items()})


def _name(event: Mapping[str, Any]) -> str:
    """KIND-MODEL-SIZE, the size of a square picture being one number."""
    kind = "-".join("".join(c if c.isalnum() else " " for c in event["device_kind"].lower()).split())
    width, height = event["width"], event["height"]
    return f"{kind}-{event['model']}-{width if width == height else f'{width}x{height}'}"


def _by_batch(costs: Mapping[str, Any]) -> dict[int, Any]:
    return {int(batch): costs[batch] for batch in sorted(costs, key=int)}


def _table(profile: Profile) -> Table:
    store = "" if profile.store_s is None else f"; storing a picture takes {profile.store_s * 1000:.1f} ms"
    table = Table(title=profile.name, caption=f"milliseconds, medians{store}", title_style="bold")
    for column in ("batch", "step", "step an image", "encode", "decode", "decode an image"):
        table.add_column(column, justify="right")
    lanes = profile.lanes
    for batch in sorted(set().union(*lanes.values())):
        step, encode, decode = (lanes.get(lane, {}).get(batch) for lane in ("step", "encode", "decode"))
        table.add_row(str(batch), *_ms(step, _each(step, batch), encode, decode, _each(decode, batch)))
    return table


def _each(seconds: float | None, batch: int) -> float | None:
    return None if seconds is None else seconds / batch


def _ms(*seconds: float | None) -> Iterable[str]:
    return ("" if each is None else f"{each * 1000:.2f}" for each in seconds)
