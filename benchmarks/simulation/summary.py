"""Means over seeds, by cell and scheduler, and what is written to JSON."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simulation.study import Run


@dataclass(frozen=True, slots=True)
class Summary:
    """One scheduler in one cell: mean and standard deviation of each figure over the seeds, and the runs."""

    load: float
    slo_scale: float
    label: str
    mean: dict[str, float]
    deviation: dict[str, float]
    runs: tuple[Run, ...]


def summaries(runs: Sequence[Run]) -> list[Summary]:
    """In the order of the runs."""
    grouped: dict[tuple[float, float, str], list[Run]] = {}
    for each in runs:
        grouped.setdefault((each.load, each.slo_scale, each.label), []).append(each)
    return [_summary(group) for group in grouped.values()]


def as_json(all_of_them: Sequence[Summary], with_records: bool) -> list[dict[str, Any]]:
    """A list of cells: load, slo_scale and, by label, means, deviations and what each seed gave. What is not a number is null."""
    cells: dict[tuple[float, float], dict[str, Any]] = {}
    for each in all_of_them:
        cell = cells.setdefault(
            (each.load, each.slo_scale), {"load": each.load, "slo_scale": each.slo_scale, "policies": {}}
        )
        cell["policies"][each.label] = {
            "mean": _plain(each.mean),
            "deviation": _plain(each.deviation),
            "seeds": [_run_as_json(run, with_records, index == 0) for index, run in enumerate(each.runs)],
        }
    return list(cells.values())


def _summary(runs: list[Run]) -> Summary:
    first = runs[0]
    names = [name for name in first.figures if all(name in run.figures for run in runs)]
    columns = {name: [run.figures[name] for run in runs] for name in names}
    mean = {name: statistics.fmean(column) for name, column in columns.items()}
    deviation = {name: statistics.stdev(column) if len(column) > 1 else 0.0 for name, column in columns.items()}
    return Summary(first.load, first.slo_scale, first.label, mean, deviation, tuple(runs))


def _run_as_json(run: Run, with_records: bool, with_queue: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "seed": run.seed,
        "figures": _plain(run.figures),
        "handlings": {kind: dataclasses.asdict(each) for kind, each in run.handlings.items()},
    }
    if with_queue:
        told["in_system"] = run.in_system
    if with_records:
        told["records"] = [dataclasses.asdict(record) for record in run.records]
    return told


def _plain(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}
