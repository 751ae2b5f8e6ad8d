"""Upper bounds of attainment that the yardstick computed for the cells of a study.

A file holds, at its top or under `figures`, a list `bounds` of {load, slo_scale, seed, attainment, attainment_evaluations}: shares from 0
to 1 that no schedule of that cell's requests can exceed.
"""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Cell = tuple[float, float]
"""SLO scale and load."""


class BoundsError(ValueError):
    """There is no such file, or it holds no bounds."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Means over the seeds, by figure and cell."""

    of: Mapping[str, Mapping[Cell, float]]

    def figure(self, name: str) -> Mapping[Cell, float]:
        """What is known of one figure; nothing if there is nothing."""
        return self.of.get(name, {})


def read_bounds(path: Path) -> Bounds:
    """Raises BoundsError."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        rows = document.get("figures", document)["bounds"]
        return Bounds({name: _means(rows, name) for name in ("attainment", "attainment_evaluations")})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BoundsError(f"{path}: no file of bounds ({error})") from error


def _means(rows: list[dict[str, float]], name: str) -> dict[Cell, float]:
    cells: dict[Cell, list[float]] = {}
    for row in rows:
        cells.setdefault((row["slo_scale"], row["load"]), []).append(row[name])
    return {cell: statistics.fmean(values) for cell, values in cells.items()}
