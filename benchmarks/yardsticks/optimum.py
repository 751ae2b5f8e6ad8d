"""The most that jobs on time can be worth in a small instance: the optimum of a scheduler that knows the future.

Selections of jobs are tried in order of their worth, and the first that is possible is the optimum. Not every one needs the solver:

1. What contains an impossible selection is impossible.
2. If a job outside could take the place of one inside (released no later, due no sooner, no more to do, worth no less), the exchanged
   selection is possible if this one is, and worth no less: this one need not be tried.
3. The linear programme (`timed`) refutes most others within milliseconds.
4. CP-SAT judges the rest (`rounds`). If its time was not enough for one, the optimum is that one's worth at most.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from simulation.instance import Instance, Request
from yardsticks.rounds import Verdict, judge
from yardsticks.ticks import problem_of
from yardsticks.timed import timed_bound
from yardsticks.windows import groups_of, windows_of

Selection = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Optimum:
    """`jobs` can all be on time, and are worth `worth`; nothing that can is worth more than `most`. `judged` selections took the solver."""

    worth: float
    most: float
    jobs: Selection
    judged: int

    @property
    def proven(self) -> bool:
        """Whether `worth` is the optimum for sure."""
        return self.worth == self.most


def optimum_of(instance: Instance, limit_s: float) -> Optimum:
    """Of an instance with one device, one batch key and a dozen jobs or fewer. `limit_s` is for each selection that the solver judges."""
    return _Search(instance, limit_s).run()


class _Search:
    """One instance's."""

    def __init__(self, instance: Instance, limit_s: float) -> None:
        self._instance = instance
        self._limit_s = limit_s
        self._groups = groups_of(instance.devices)
        self._windows = windows_of(instance, self._groups)
        self._impossible: list[frozenset[int]] = []
        self._judged = 0

    def run(self) -> Optimum:
        most = 0.0
        for chosen in self._selections():
            verdict = self._verdict(chosen)
            if verdict is Verdict.IMPOSSIBLE:
                self._impossible.append(frozenset(chosen))
                continue
            worth = self._worth(chosen)
            most = max(most, worth)
            if verdict is Verdict.POSSIBLE:
                return Optimum(worth, most, chosen, self._judged)
        return Optimum(0.0, most, (), self._judged)

    def _selections(self) -> Iterator[Selection]:
        """The most worth first."""
        able = [window.index for window in self._windows]
        every = itertools.chain.from_iterable(itertools.combinations(able, count) for count in range(1, len(able) + 1))
        for chosen in sorted(every, key=self._worth, reverse=True):
            known = any(bad.issubset(chosen) for bad in self._impossible)
            if not known and not self._replaceable(chosen, able):
                yield chosen

    def _worth(self, chosen: Selection) -> float:
        return math.fsum(self._instance.requests[job].weight for job in chosen)

    def _replaceable(self, chosen: Selection, able: list[int]) -> bool:
        """Rule 2; of jobs that are alike the first stands for the others."""
        requests, outside = self._instance.requests, [job for job in able if job not in chosen]
        return any(
            _no_harder(requests[other], requests[job])
            and (other < job or not _no_harder(requests[job], requests[other]))
            for job, other in itertools.product(chosen, outside)
        )

    def _verdict(self, chosen: Selection) -> Verdict:
        windows = [window for window in self._windows if window.index in chosen]
        if timed_bound(windows, self._groups, [1.0] * len(self._instance.requests)) < len(chosen):
            return Verdict.IMPOSSIBLE
        self._judged += 1
        return judge(problem_of(self._instance, chosen), self._limit_s)


def _no_harder(one: Request, other: Request) -> bool:
    """Whether `one` can take the place of `other` in any schedule, and is worth no less."""
    return (
        one.key == other.key
        and one.release <= other.release
        and one.deadline >= other.deadline
        and one.evaluations <= other.evaluations
        and one.images <= other.images
        and one.weight >= other.weight
    )
