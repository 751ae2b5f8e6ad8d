"""A study: several schedulers on the same instances, over loads, SLO scales and seeds, in parallel processes.

Every run is a pure function of its task, so how many processes there are changes nothing but the time it takes.
"""

import dataclasses
import itertools
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from collodion.scheduler.config import SchedulerConfig
from simulation.instance import Device, Instance
from simulation.ledger import Record
from simulation.meter import Handling
from simulation.result import Result
from simulation.running import run
from simulation.workloads import Workload, make_instance
from simulation.world import Conditions

_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Contender:
    """A scheduler as it is configured, and what it is called."""

    label: str
    config: SchedulerConfig


@dataclass(frozen=True, slots=True)
class Study:
    """What is compared, and where. The seed of `conditions` is replaced by each of `seeds`."""

    workload: Workload
    devices: tuple[Device, ...]
    loads: tuple[float, ...]
    slo_scales: tuple[float, ...]
    seeds: tuple[int, ...]
    contenders: tuple[Contender, ...]
    conditions: Conditions

    def instance(self, load: float, slo_scale: float, seed: int) -> Instance:
        """The problem of one cell and seed."""
        return make_instance(self.workload, self.devices, load, slo_scale, seed)

    def tasks(self) -> list["Task"]:
        """All runs."""
        return [
            Task(self, load, slo_scale, seed, contender)
            for load, slo_scale, seed, contender in itertools.product(
                self.loads, self.slo_scales, self.seeds, self.contenders
            )
        ]


@dataclass(frozen=True, slots=True)
class Task:
    """One run."""

    study: Study
    load: float
    slo_scale: float
    seed: int
    contender: Contender

    def result(self, on_decided: Callable[[int], None] = lambda _: None, timeline: bool = False) -> Result:
        """Runs it."""
        instance = self.study.instance(self.load, self.slo_scale, self.seed)
        conditions = dataclasses.replace(self.study.conditions, seed=self.seed, timeline=timeline)
        return run(instance, self.contender.config, conditions, on_decided)


@dataclass(frozen=True, slots=True)
class Run:
    """What remains of a run: its place in the study and its figures."""

    load: float
    slo_scale: float
    seed: int
    label: str
    figures: dict[str, float]
    handlings: dict[str, Handling]
    in_system: tuple[tuple[float, int], ...]
    records: tuple[Record, ...]


def run_study(study: Study, processes: int, on_progress: Callable[[int], Any]) -> list[Run]:
    """All runs, in the order of `tasks`. `on_progress` hears how many more requests were decided."""
    tasks = study.tasks()
    if processes == 1:
        return [_run(task, on_progress) for task in tasks]
    context = multiprocessing.get_context("spawn")
    decided: Synchronized[int] = context.Value("q", 0)
    pool = ProcessPoolExecutor(processes, context, _start, (decided,))
    try:
        futures = [pool.submit(_run_elsewhere, task) for task in tasks]
        for more in _progress(futures, decided):
            on_progress(more)
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def _progress(futures: "list[Future[Run]]", decided: "Synchronized[int]") -> Iterator[int]:
    seen, pending = 0, set(futures)
    while pending:
        done, pending = wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()  # a run that failed ends the study at once
        now = decided.value
        yield now - seen
        seen = now


def _run(task: Task, on_progress: Callable[[int], Any]) -> Run:
    seen = 0

    def on_decided(decided: int) -> None:
        nonlocal seen
        on_progress(decided - seen)
        seen = decided

    result = task.result(on_decided)
    on_progress(len(result.records) - seen)
    return Run(
        task.load,
        task.slo_scale,
        task.seed,
        task.contender.label,
        result.figures(),
        result.handlings,
        result.in_system,
        result.records,
    )


# ------------------------------------------------------------------ in the other processes

_decided: "Synchronized[int] | None" = None


def _start(decided: "Synchronized[int]") -> None:
    global _decided
    _decided = decided
    quieten()


def _run_elsewhere(task: Task) -> Run:
    return _run(task, _count)


def _count(more: int) -> None:
    if _decided is not None and more:
        with _decided.get_lock():
            _decided.value += more


def quieten() -> None:
    """The scheduler's log of a simulated day is of no use."""
    logging.getLogger("collodion").setLevel(logging.CRITICAL)
