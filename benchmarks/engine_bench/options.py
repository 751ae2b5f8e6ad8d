"""The command line, and what it leaves open on which device."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from collodion.process.config import ConfigError
from engine_bench.clocks import CLOCKS, Clock
from engine_bench.columns import AUTO, DIFFUSERS, PLAIN, Column, columns_of

PARTS = ("speed", "likeness", "strangers", "profile")
_DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
_MODELS = {"cpu": ("shapes", "middle"), "cuda": ("sd15", "sdxl")}
_ALONE = ("compile", "graphs", "channels-last", "fuse-qkv", "deepspeed", "int8", "step-cache")
_COLUMNS = {
    "cpu": (DIFFUSERS, PLAIN, AUTO, *_ALONE),
    "cuda": (DIFFUSERS, PLAIN, AUTO, "all", *_ALONE, "xformers", "sdpa-cudnn", "fp8", "all+fp8", "all+step-cache"),
}
_MOST = {"cpu": 8, "cuda": 32}
_GROWING = (DIFFUSERS, PLAIN, AUTO)
_QUICK_COLUMNS = (DIFFUSERS, PLAIN, AUTO)


@dataclass(frozen=True)
class Settings:
    """What to measure.

    main_steps: of every batch. steps: also, at the smallest batch or crossed with all. Where these are None, and batches empty, a model
    has its own. named: whether somebody asked for these columns. most: pictures of a batch; most_compiled: where something is compiled,
    which takes long for every number of rows. budget_s: nothing is begun later. resident: columns in memory at a time; None: as many as
    fit.
    """

    place: torch.device
    dtype: str
    models: tuple[str, ...]
    columns: tuple[Column, ...]
    named: bool
    batches: tuple[int, ...]
    main_steps: int | None
    steps: tuple[int, ...] | None
    rounds: int
    most: int
    most_compiled: int
    crossed: bool
    saturate: bool
    parts: tuple[str, ...]
    size: tuple[int, int] | None
    threads: int
    clock_name: str
    budget_s: float | None
    resident: int | None
    out: Path

    def batches_of(self, usual: tuple[int, ...]) -> tuple[int, ...]:
        """What was asked for, or what is usual for the model."""
        return self.batches or usual

    def most_of(self, column: Column, usual: tuple[int, ...]) -> int:
        """Pictures of a batch of this column at most. usual: batches of the model."""
        largest = max(self.batches_of(usual))
        most = max(self.most, largest) if self.grows(column) else largest
        return min(most, self.most_compiled) if "compile=regional" in column.words else most

    def grows(self, column: Column) -> bool:
        """Whether its batches are doubled while that gains something: of those that stand for all, or of all that were named."""
        return self.saturate and (column.name in _GROWING or self.named)

    @property
    def clock(self) -> Clock:
        """Of a CPU."""
        return CLOCKS[self.clock_name]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision."""
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found


def parser(description: str) -> argparse.ArgumentParser:
    """All options."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    made.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="default: bfloat16 on a GPU, else float32"
    )
    made.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        help="shapes, middle, sd15, sdxl, sd3, flux or NAME=/path (default: two for the device)",
    )
    made.add_argument(
        "--columns", nargs="+", metavar="COLUMN", help="names, or NAME:KEY=VALUE,… (default: all that suit the device)"
    )
    made.add_argument("--batches", nargs="+", type=int, metavar="N", help="default: 1 2 4 8; 1 8 of middle")
    made.add_argument(
        "--main-steps",
        type=int,
        metavar="N",
        help="of every batch (default: 50 for sd15, 28 for sd3 and flux, else 20)",
    )
    made.add_argument(
        "--steps",
        nargs="*",
        type=int,
        metavar="N",
        help="also, at batch 1; none if nothing follows (default: 20 30 50; none of middle)",
    )
    made.add_argument("--crossed", action="store_true", help="those at every batch")
    made.add_argument("--no-saturation", action="store_true", help="do not go on doubling batches while it gains 5 %%")
    made.add_argument("--most", type=int, metavar="N", help="pictures of a batch (default: 32 on a GPU, else 8)")
    made.add_argument(
        "--most-compiled",
        type=int,
        metavar="N",
        help="pictures of a batch of what is compiled, which takes a while for every number of rows (default: 1)",
    )
    made.add_argument("--rounds", type=int, metavar="N", help="of every cell, all columns in turns (default: 3)")
    made.add_argument("--parts", nargs="+", choices=PARTS, help="default: all but profile")
    made.add_argument("--profile", action="store_true", help="also where the time of a step goes")
    made.add_argument("--size", type=_size, metavar="WIDTHxHEIGHT", help="pixels (default: the model's own)")
    made.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of this process, on a CPU that others use")
    made.add_argument("--threads", type=int, default=1, metavar="N", help="of a CPU (default: 1)")
    made.add_argument("--budget-s", type=float, metavar="S", help="begin nothing more after so many seconds")
    made.add_argument(
        "--resident",
        type=int,
        metavar="N",
        help="columns in memory at a time, beside diffusers (default: as many as fit)",
    )
    made.add_argument(
        "--show",
        type=Path,
        metavar="FILE",
        help="the table and the plot of an engine.json, of a run that was killed for example",
    )
    made.add_argument("--quick", action="store_true", help="a minute: three columns, batches 1 and 8, 20 steps")
    made.add_argument(
        "--out", type=Path, default=Path(".runs/engine"), metavar="FOLDER", help="for engine.json, .txt and .png"
    )
    return made


def settings_of(arguments: argparse.Namespace) -> Settings:
    """With what was left open. Raises ConfigError."""
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: there is no CUDA device")
    if device == "cuda" and arguments.clock == "cpu":
        raise ConfigError("clock: this process's own time says nothing of a GPU")
    if min((*(arguments.batches or ()), *(arguments.steps or ()), arguments.rounds or 1)) < 1:
        raise ConfigError("batches, steps and rounds begin at 1")
    quick = arguments.quick
    batches = (1, 8) if quick else tuple(arguments.batches or ())
    most = max((arguments.most or _MOST[device], *batches))
    return Settings(
        place=torch.device("cuda:0" if device == "cuda" else "cpu"),
        dtype=arguments.dtype or _DTYPES[device],
        models=tuple(arguments.models or _MODELS[device][: 1 if quick else None]),
        columns=_columns(arguments.columns, _QUICK_COLUMNS if quick else _COLUMNS[device]),
        named=bool(arguments.columns),
        batches=batches,
        main_steps=arguments.main_steps or (20 if quick else None),
        steps=() if quick else None if arguments.steps is None else tuple(arguments.steps),
        rounds=arguments.rounds or 3,
        most=most,
        most_compiled=arguments.most_compiled or 1,
        crossed=arguments.crossed,
        saturate=not (arguments.no_saturation or quick),
        parts=tuple(arguments.parts or PARTS[:3]) + (("profile",) if arguments.profile else ()),
        size=arguments.size,
        threads=arguments.threads,
        clock_name=arguments.clock,
        budget_s=arguments.budget_s,
        resident=arguments.resident,
        out=arguments.out,
    )


def _columns(asked: Sequence[str] | None, usual: Sequence[str]) -> tuple[Column, ...]:
    """diffusers first: everything is compared with it."""
    chosen = columns_of(asked or usual)
    return tuple(sorted(chosen, key=lambda column: column.ours))


def _size(word: str) -> tuple[int, int]:
    width, _, height = word.partition("x")
    return int(width), int(height)
