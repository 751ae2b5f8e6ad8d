"""Compares schedulers in simulation: the real core on a virtual clock, over loads, SLO scales and seeds.

For example: simulate.py --profile ../shared/data/profiles/sd15-stage-latency.json:h100-sd15-512 --load 0.9 1.2 --slo-scale 2 3
--seed 1 2 3 --policy fifo --policy static,static_size=8 --plots .runs/plots --json .runs/simulate.json
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from common import environment
from simulation.bounds import Bounds, BoundsError, read_bounds
from simulation.options import parser, study_of
from simulation.plot_cells import plot_attainment, plot_queues
from simulation.plot_timeline import Window, plot_timeline
from simulation.study import Study, quieten, run_study
from simulation.summary import Summary, as_json, summaries
from simulation.tables import cell_table, matrix

_ATTAINMENTS = {"attainment": "on time, % of jobs", "attainment_evaluations": "on time, % of evaluations"}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs, prints tables, draws and writes what was asked for."""
    arguments = parser(__doc__ or "").parse_args(argv)
    study = study_of(arguments)
    bounds = _bounds(arguments.bounds)
    quieten()
    began = time.perf_counter()
    rows = _run(study, arguments.processes)
    wall_s = time.perf_counter() - began
    _print(rows, bounds, wall_s)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(_document(arguments, rows, wall_s), indent=1) + "\n")
    if arguments.plots is not None:
        _draw(study, rows, bounds, arguments.window, arguments.plots)


def _bounds(path: Path | None) -> Bounds:
    try:
        return read_bounds(path) if path else Bounds({})
    except BoundsError as error:
        raise SystemExit(f"simulate: {error}") from error


def _run(study: Study, processes: int) -> list[Summary]:
    workload = study.workload
    requests = workload.jobs * (1 + (workload.flood - 1) / workload.tenants) + workload.burst
    total = round(len(study.tasks()) * requests)
    with tqdm(total=total, unit="request", delay=2, smoothing=0.05, dynamic_ncols=True) as bar:
        return summaries(run_study(study, processes, bar.update))


def _print(rows: list[Summary], bounds: Bounds, wall_s: float) -> None:
    for load, slo_scale in dict.fromkeys((row.load, row.slo_scale) for row in rows):
        cell = [row for row in rows if (row.load, row.slo_scale) == (load, slo_scale)]
        print(f"\nload {load:g}, SLO scale {slo_scale:g}, {len(cell[0].runs)} seeds\n\n{cell_table(cell)}")
    if len({(row.load, row.slo_scale) for row in rows}) > 1:
        for figure, title in _ATTAINMENTS.items():
            print(f"\n{title}\n\n{matrix(rows, figure, bounds.figure(figure))}")
    evaluations = sum(run.figures["evaluations"] for row in rows for run in row.runs)
    print(f"\n{evaluations:,.0f} evaluations in {wall_s:.1f} s: {evaluations / wall_s:,.0f} a second")


def _draw(study: Study, rows: list[Summary], bounds: Bounds, window: Window | None, folder: Path) -> None:
    """The timelines are of the first cell and seed, run once more."""
    drawn = [
        *(
            plot_attainment(rows, bounds.figure(figure), figure, title, folder / f"{figure.replace('_', '-')}.png")
            for figure, title in _ATTAINMENTS.items()
        ),
        plot_queues(rows, study.slo_scales[0], folder / "queues.png"),
    ]
    tasks = study.tasks()[: len(study.contenders)]
    for task in tqdm(tasks, unit="timeline", delay=2):
        label = task.contender.label
        name = "".join(character if character.isalnum() else "-" for character in label)
        drawn.append(plot_timeline(task.result(timeline=True), label, window, folder / f"timeline-{name}.png"))
    print("\n" + "\n".join(str(path) for path in drawn))


def _document(arguments: argparse.Namespace, rows: list[Summary], wall_s: float) -> dict[str, Any]:
    settings = {name: value if _is_plain(value) else str(value) for name, value in vars(arguments).items()}
    return {
        "benchmark": "simulate",
        "environment": environment(),
        "settings": settings,
        "wall_s": wall_s,
        "cells": as_json(rows, arguments.records),
    }


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list)


if __name__ == "__main__":
    main()
