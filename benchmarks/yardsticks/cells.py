"""Bounds of every cell and seed of a study, in the form that `simulation.bounds` reads."""

import dataclasses
import itertools
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from simulation.instance import Device
from simulation.workloads import Workload, make_instance
from yardsticks.bounds import Bound, bound_of, evaluation_weights, job_weights


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells. `finest` is the bound's resolution (`yardsticks.bounds`)."""

    workload: Workload
    devices: tuple[Device, ...]
    loads: tuple[float, ...]
    slo_scales: tuple[float, ...]
    seeds: tuple[int, ...]
    finest: int

    def tasks(self) -> list["Task"]:
        """One for each cell and seed."""
        return [Task(self, *each) for each in itertools.product(self.loads, self.slo_scales, self.seeds)]


@dataclass(frozen=True, slots=True)
class Task:
    """One instance to bound."""

    grid: Grid
    load: float
    slo_scale: float
    seed: int


@dataclass(frozen=True, slots=True)
class Row:
    """Shares from 0 to 1 that no schedule of one cell's requests exceeds, and what the simple programme alone gives."""

    load: float
    slo_scale: float
    seed: int
    attainment: float
    attainment_evaluations: float
    simple_attainment: float

    def as_json(self) -> dict[str, Any]:
        """Its fields by name."""
        return dataclasses.asdict(self)


def bound_cells(tasks: list[Task], processes: int) -> Iterator[Row]:
    """A row for each task, as they come."""
    if processes == 1:
        yield from map(_row, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        futures = [pool.submit(_row, task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()


def _row(task: Task) -> Row:
    grid = task.grid
    instance = make_instance(grid.workload, grid.devices, task.load, task.slo_scale, task.seed)
    jobs = bound_of(instance, job_weights(instance), grid.finest)
    evaluations = evaluation_weights(instance)
    # Where all jobs are of one size the other programme is the same, scaled.
    alike = len(set(evaluations)) < 2
    by_evaluations = jobs if alike else bound_of(instance, evaluations, grid.finest)
    return Row(task.load, task.slo_scale, task.seed, jobs.share, by_evaluations.share, _share(jobs))


def _share(bound: Bound) -> float:
    return min(1.0, bound.simple / bound.whole) if bound.whole else 1.0
