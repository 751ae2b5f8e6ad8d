"""The columns: what is measured beside what.

`plain` is ours with everything off; a column that is named after one thing has that one more. `auto` is what a user gets who sets nothing
but the precision; `all` is that with blocks compiled and projections fused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from collodion.process.config import ConfigError
from collodion.worker.optimize.wishes import check

DIFFUSERS = "diffusers"
PLAIN = "plain"
AUTO = "auto"
_OFF = (
    "attention=sdpa",
    "memory_format=contiguous",
    "fuse_qkv=off",
    "quantize=off",
    "deepspeed=off",
    "compile=off",
    "cuda_graphs=off",
    "step_cache=off",
    "vae=whole",
    "decode=between",
)
DRIFT = 0.1
"""Of the columns with a step cache: the largest relative change of the first block for which the others' output is used again."""


@dataclass(frozen=True)
class Column:
    """words: of WorkerConfig.optimize, without the precision. step_cache: see Parameters. ours: else it is diffusers' own pipeline."""

    name: str
    words: tuple[str, ...] = ()
    step_cache: float = 0.0
    ours: bool = field(default=True)

    @property
    def said(self) -> str:
        """What it is, in a few words."""
        if not self.ours:
            return "diffusers' own pipeline"
        own = [word for word in self.words if word not in _OFF]
        return ", ".join([*own, *([f"step cache {self.step_cache:g}"] if self.step_cache else [])]) or (
            "everything off" if self.words else "nothing set"
        )


def _alone(name: str, *words: str, step_cache: float = 0.0) -> Column:
    """Everything else off."""
    keys = {word.partition("=")[0] for word in words}
    return Column(name, (*(word for word in _OFF if word.partition("=")[0] not in keys), *words), step_cache)


COLUMNS = {
    column.name: column
    for column in (
        Column(DIFFUSERS, ours=False),
        _alone(PLAIN),
        Column(AUTO),
        _alone("compile", "compile=regional"),
        _alone("graphs", "cuda_graphs=on"),
        _alone("channels-last", "memory_format=channels-last"),
        _alone("fuse-qkv", "fuse_qkv=on"),
        _alone("xformers", "attention=xformers"),
        _alone("sdpa-flash", "attention=sdpa-flash"),
        _alone("sdpa-cudnn", "attention=sdpa-cudnn"),
        _alone("flash", "attention=flash"),
        _alone("deepspeed", "deepspeed=on"),
        _alone("int8", "quantize=int8"),
        _alone("fp8", "quantize=fp8"),
        _alone("step-cache", "step_cache=on", step_cache=DRIFT),
        Column("all", ("compile=regional", "fuse_qkv=on")),
        Column("all+fp8", ("compile=regional", "fuse_qkv=on", "quantize=fp8")),
        Column("all+step-cache", ("compile=regional", "fuse_qkv=on", "step_cache=on"), DRIFT),
    )
}


def columns_of(words: Sequence[str]) -> list[Column]:
    """The columns of these names, or of NAME:KEY=VALUE,… for one that has none. Raises ConfigError."""
    chosen = [_column(word) for word in words]
    if repeated := {one.name for one in chosen if sum(other.name == one.name for other in chosen) > 1}:
        raise ConfigError(f"columns: {min(repeated)} is named twice")
    return chosen


def _column(word: str) -> Column:
    if word in COLUMNS:
        return COLUMNS[word]
    name, colon, said = word.partition(":")
    if not colon or not name:
        raise ConfigError(f"columns: there is no {word!r}; there are {', '.join(COLUMNS)}, and NAME:KEY=VALUE,…")
    words = [one for one in said.split(",") if one]
    drift = [one for one in words if one.startswith("drift=")]
    kept = tuple(one for one in words if one not in drift)
    check(kept)
    try:
        return Column(name, kept, float(drift[-1].partition("=")[2]) if drift else 0.0)
    except ValueError as error:
        raise ConfigError(f"columns: {drift[-1]!r} is no number") from error
