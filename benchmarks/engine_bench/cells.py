"""Which batches and numbers of steps are measured, when more of a batch gains nothing, and what samples come to."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common import spread

LEAST_GAIN = 1.05
"""Twice the batch has to give so many times the pictures a second, or it is saturated."""


@dataclass(frozen=True, order=True)
class Cell:
    """So many pictures at once, of so many steps."""

    batch: int
    steps: int

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.steps} steps"


def cells_of(batches: Sequence[int], main_steps: int, steps: Sequence[int], *, crossed: bool) -> list[Cell]:
    """Most telling first: every batch with the main number of steps, then the other numbers of steps at the smallest batch, or at all."""
    ordered = sorted(set(batches), key=lambda batch: (batch != min(batches), batch != max(batches), batch))
    main = [Cell(batch, main_steps) for batch in ordered]
    others = sorted(set(steps) - {main_steps})
    return main + [Cell(batch, other) for batch in (ordered if crossed else ordered[:1]) for other in others]


@dataclass
class Samples:
    """Of one column in one cell, by round. total_s: seconds. rates: steps a second. gaps: the median of each round's, see Drawn."""

    total_s: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def add(self, total_s: float, rate: float, gaps: Sequence[float]) -> None:
        """A round."""
        self.total_s.append(total_s)
        self.rates.append(rate)
        if gaps:
            self.gaps.append(statistics.median(gaps))

    def figures(self, cell: Cell, against: "Samples | None", floor_s: float | None) -> dict[str, Any]:
        """against: diffusers' of the same rounds. floor_s: see Work."""
        seconds = statistics.median(self.total_s)
        made: dict[str, Any] = {
            "total_s": spread(self.total_s),
            "image_s": seconds / cell.batch,
            "images_per_s": cell.batch / seconds,
            "steps_per_s": statistics.median(self.rates),
            "peak_bytes": self.peak_bytes,
        }
        if self.gaps:
            made["gap"] = statistics.median(self.gaps)
        if floor_s is not None:
            made |= {"floor_s": floor_s, "share_of_floor": floor_s / seconds}
        if against is not None and len(against.total_s) == len(self.total_s):
            made["speedup"] = spread([other / mine for mine, other in zip(self.total_s, against.total_s, strict=True)])
        return made


def saturated(images_per_s: Mapping[int, float]) -> bool:
    """Whether the last doubling gained too little. images_per_s: by batch."""
    batches = sorted(images_per_s)
    last = batches[-1] if batches else 0
    if last % 2 or last // 2 not in images_per_s:
        return False
    return images_per_s[last] < LEAST_GAIN * images_per_s[last // 2]
