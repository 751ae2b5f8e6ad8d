"""CPU time that the scheduler's core takes: reports, decisions, submissions and admission, and how each grows.

The real core (policy slack, H100 profile known, SD 1.5 at 512 px, 10 to 50 steps) under loads that stay as they are
(`loaded_core.py`). CPU time of the process, garbage collection on, set as the scheduler's process sets it.

1. states: calls of `Core.handle` while latents wait, by kind of event. "decided": a worker was told something else than before.
   "settling" is the part of them in which decisions are made.
2. admission: one job at a time, from its submission to the verdict, by the length of the promised lines.
3. bursts: many submissions at one moment, which are judged together.
"""

import argparse
import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import common
from collodion.scheduler.admission import Admission
from collodion.scheduler.dispatch import Dispatch
from collodion.scheduler.garbage import keep_collections_short
from collodion.wire.jobs import DeadlinePolicy
from collodion.wire.to_frontend import Accepted, Refused
from loaded_core import Load, LoadedCore, State
from simulation.profiles import Profile, read_profile

PROFILE = "../shared/data/profiles/sd15-stage-latency.json:h100-sd15-512"
WAITING = (1_000, 3_000, 10_000)
WORKERS = (8, 16, 64)
LINES = (16, 64, 150)
BURSTS = (300, 1_000)
WORKER_SECONDS = 240.0
ADMISSIONS = 150
_ADMISSION_WORKERS = 8
_LONG_S = 3000.0
_TIGHT_S = 4.0  # beside long lines some are kept and some are not
_WISHES = (
    (_LONG_S, DeadlinePolicy.REFUSE),
    (_TIGHT_S, DeadlinePolicy.REFUSE),
    (_TIGHT_S, DeadlinePolicy.DEGRADE),
)
_SHOWN = (
    "report: progress of a full batch",
    "report: progress of a full batch, decided",
    "report: latent past its steps, decided",
    "report: picture stored, decided",
    "settling",
    "submission",
    "persisted",
    "persisted, decided",
    "tick",
    "next_wake",
    "frontend's beat",
    "worker's beat",
    "garbage collection, young",
    "full garbage collection",
)

Figures = dict[str, float]


def main() -> None:
    """Measures what the command line asks for."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--waiting", type=int, nargs="*", default=WAITING, help="waiting latents (default: 1000 3000 10000)"
    )
    parser.add_argument("--workers", type=int, nargs="*", default=WORKERS, help="workers (default: 8 16 64)")
    parser.add_argument("--load", type=Load, nargs="*", default=list(Load), help="what waits (default: all three)")
    parser.add_argument(
        "--lines", type=int, nargs="*", default=LINES, help="promised latents a line (default: 16 64 150)"
    )
    parser.add_argument("--bursts", type=int, nargs="*", default=BURSTS, help="jobs at one moment (default: 300 1000)")
    parser.add_argument("--profile", default=PROFILE, metavar="FILE:NAME", help=f"default: {PROFILE}")
    parser.add_argument(
        "--pythons-collector", action="store_true", help="garbage collection as Python has it by itself"
    )
    asked = parser.parse_args()
    profile = read_profile(_found(asked.profile))
    if not asked.pythons_collector:
        keep_collections_short()
    figures = {
        "states": _measure_states(asked, profile),
        "admission": _measured(asked.lines, "admission, lines of", lambda line: _admission(line, profile)),
        "bursts": _measured(asked.bursts, "bursts of", lambda jobs: _burst(jobs, profile)),
    }
    for part, by_case in figures.items():
        _show(part, by_case)
    _show_growth(figures["states"])
    if asked.json is not None:
        common.report("scheduler_cpu", figures, asked.json)


def _found(profile: str) -> str:
    path, _, name = profile.rpartition(":")
    return f"{path if Path(path).exists() else common.ROOT / path}:{name}"


# -------------------------------------------------------------- states


def _measure_states(asked: argparse.Namespace, profile: Profile) -> dict[str, dict[str, Figures]]:
    states = [
        State(waiting, workers, load) for load in asked.load for workers in asked.workers for waiting in asked.waiting
    ]
    result: dict[str, dict[str, Figures]] = {}
    with Progress() as progress:
        bar = progress.add_task("states", total=len(states) * WORKER_SECONDS)
        for done, state in enumerate(states):
            name = f"{state.load.value}, {state.waiting} waiting, {state.workers} workers"
            progress.update(bar, description=name, completed=done * WORKER_SECONDS)

            def on_time(seconds: float, done: int = done, workers: int = state.workers) -> None:
                progress.update(bar, completed=done * WORKER_SECONDS + seconds * workers)

            result[name] = _state(state, profile, on_time)
    return result


def _state(state: State, profile: Profile, on_time: Callable[[float], None]) -> dict[str, Figures]:
    loaded = LoadedCore(state, profile)
    with _Inside(loaded, Dispatch, "settle", "settling"), _Collections(loaded):
        loaded.run(WORKER_SECONDS / state.workers, on_time)
    return {kind: _spread(loaded.cpu_s[kind]) for kind in _SHOWN if kind in loaded.cpu_s}


# -------------------------------------------------------------- admission


def _measured(
    sizes: Sequence[int], what: str, measure: Callable[[int], dict[str, Figures]]
) -> dict[str, dict[str, Figures]]:
    with Progress() as progress:
        bar = progress.add_task(what, total=len(sizes))
        result = {}
        for size in sizes:
            progress.update(bar, description=f"{what} {size}")
            result[f"{what} {size}"] = measure(size)
            progress.advance(bar)
    return result


def _admission(line: int, profile: Profile) -> dict[str, Figures]:
    """One job at a time, what it costs from submission to verdict; the lines are filled up, and time passes, in between."""
    loaded = LoadedCore(State(0, _ADMISSION_WORKERS, Load.PROMISED), profile)
    spare = line * _ADMISSION_WORKERS // 4
    took: dict[str, list[float]] = {}
    for number in range(ADMISSIONS):
        loaded.keeps_load = False
        while min(loaded.lines()) < line:
            for _ in range(spare):
                loaded.submit("fill", None)
            loaded.run(0.01)
            loaded.promise_waiting(1.0, line)
        slo_s, policy = _WISHES[number % len(_WISHES)]
        loaded.run(0.2)
        loaded.cpu_s.clear()
        with _Inside(loaded, Admission, "judge", "judged"):
            call = loaded.submit("submission", slo_s, policy)
            loaded.run(0.003)  # the door opens
        answer = loaded.answers.get(call)
        kind = _verdict(answer, policy)
        took.setdefault(kind, []).append(sum(loaded.cpu_s["submission"]) + sum(loaded.cpu_s["judged"]))
        if isinstance(answer, Accepted):
            loaded.cancel(call)
        loaded.run(0.2)
    return {kind: _spread(took[kind]) for kind in sorted(took)}


def _verdict(answer: object, policy: DeadlinePolicy) -> str:
    if isinstance(answer, Refused):
        return f"refused with an offer ({policy.value})"
    assert isinstance(answer, Accepted), "the door did not open"
    return f"accepted ({policy.value})"


def _burst(jobs: int, profile: Profile) -> dict[str, Figures]:
    result = {}
    for workers in (1, 16):
        for policy in (DeadlinePolicy.REFUSE, DeadlinePolicy.BEST_EFFORT):
            loaded = LoadedCore(State(0, workers, Load.BEST_EFFORT), profile)
            loaded.keeps_load = False
            loaded.cpu_s.clear()
            with _Inside(loaded, Admission, "judge", "each judged"), _Collections(loaded):
                for _ in range(jobs):
                    loaded.submit("each submission", 60.0, policy)
                loaded.run(0.1)
            name = f"{workers} workers, {policy.value}"
            for kind in ("each submission", "each judged"):
                result[f"{name}: {kind}"] = _spread(loaded.cpu_s[kind])
            total = sum(
                sum(taken)
                for kind, taken in loaded.cpu_s.items()
                if kind in ("each submission", "tick", "tick, decided", "persisted", "persisted, decided")
            )
            result[f"{name}: all, to the last answer"] = _spread([total])
    return result


# -------------------------------------------------------------- measuring


class _Inside:
    """While inside, notes the CPU time of a method."""

    def __init__(self, loaded: LoadedCore, owner: type, method: str, kind: str) -> None:
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*arguments: Any) -> Any:
            began = time.process_time_ns()
            result = original(*arguments)
            loaded.note(kind, (time.process_time_ns() - began) / 1e9)
            return result

        self._patch = patch.object(owner, method, timed)

    def __enter__(self) -> None:
        self._patch.start()

    def __exit__(self, *_: object) -> None:
        self._patch.stop()


class _Collections:
    """While inside, notes the CPU time of garbage collections."""

    def __init__(self, loaded: LoadedCore) -> None:
        self._loaded = loaded
        self._began = 0

    def __enter__(self) -> None:
        gc.callbacks.append(self._note)

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._note)

    def _note(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._began = time.process_time_ns()
        else:
            kind = "full garbage collection" if info["generation"] == 2 else "garbage collection, young"
            self._loaded.note(kind, (time.process_time_ns() - self._began) / 1e9)


def _spread(seconds: Iterable[float]) -> Figures:
    ascending = sorted(seconds)
    p99 = ascending[min(len(ascending) - 1, int(len(ascending) * 0.99))]
    return {
        "count": len(ascending),
        "p50, ms": 1000 * ascending[len(ascending) // 2],
        "p99, ms": 1000 * p99,
        "max, ms": 1000 * ascending[-1],
    }


# -------------------------------------------------------------- showing


def _show(part: str, by_case: Mapping[str, Mapping[str, Figures]]) -> None:
    table = Table("case", "what", "count", "p50, ms", "p99, ms", "max, ms", title=part)
    for case, by_kind in by_case.items():
        for index, (kind, figures) in enumerate(by_kind.items()):
            values = [f"{figures[name]:.3f}" for name in ("p50, ms", "p99, ms", "max, ms")]
            table.add_row("" if index else case, kind, f"{figures['count']:.0f}", *values)
        table.add_section()
    Console(width=140).print(table)


def _show_growth(states: Mapping[str, Mapping[str, Figures]]) -> None:
    """p50 and p99 of the largest state over those of the smallest, for each load."""
    table = Table("load", "what", "p50", "p99", title="growth from the smallest state to the largest, as a factor")
    for load in Load:
        cases = [by_kind for name, by_kind in states.items() if name.startswith(f"{load.value},")]
        if len(cases) < 2:
            continue
        for kind in cases[0].keys() & cases[-1].keys():
            least, most = cases[0][kind], cases[-1][kind]
            table.add_row(load.value, kind, *(f"{most[name] / least[name]:.2f}" for name in ("p50, ms", "p99, ms")))
    if table.row_count:
        Console(width=140).print(table)


if __name__ == "__main__":
    main()
