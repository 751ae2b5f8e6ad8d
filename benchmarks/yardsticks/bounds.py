"""The upper bounds of an instance: what no scheduler exceeds, as shares of all its jobs with a deadline."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from simulation.instance import Instance
from yardsticks.simple import simple_bound
from yardsticks.timed import timed_bound
from yardsticks.windows import groups_of, windows_of

FINEST = 16
"""Intervals that each job spans, on average and at most."""

_COARSEST = 2
_PAYS = 0.002  # of the whole: what twice as many intervals have to lower the bound by, to try more still


@dataclass(frozen=True, slots=True)
class Bound:
    """Sums of weights at most, by either programme, and of all jobs."""

    simple: float
    timed: float
    whole: float

    @property
    def least(self) -> float:
        """The smaller of both."""
        return min(self.simple, self.timed)

    @property
    def share(self) -> float:
        """The smaller of both over the whole; 1 of nothing."""
        return min(1.0, self.least / self.whole) if self.whole else 1.0


def bound_of(instance: Instance, weights: Sequence[float], finest: int = FINEST) -> Bound:
    """For weights by request. Intervals are made finer until each job spans `finest` of them, or as long as that pays."""
    groups = groups_of(instance.devices)
    windows = windows_of(instance, groups)
    dated = [weight for weight, each in zip(weights, instance.requests, strict=True) if not math.isinf(each.deadline)]
    whole = math.fsum(dated)
    simple = simple_bound(windows, groups, weights)
    timed = math.inf
    for spans in _doubled(finest):
        last, timed = timed, min(timed, timed_bound(windows, groups, weights, spans * len(windows)))
        if last - timed < _PAYS * whole:
            break
    if all(float(weight).is_integer() for weight in dated):  # then so is what schedules reach
        simple, timed = math.floor(simple), math.floor(timed)
    return Bound(simple, timed, whole)


def _doubled(finest: int) -> Iterator[int]:
    spans = min(_COARSEST, finest)
    while spans <= finest:
        yield spans
        spans *= 2


def job_weights(instance: Instance) -> list[float]:
    """Every job counts 1: attainment by jobs."""
    return [1.0] * len(instance.requests)


def evaluation_weights(instance: Instance) -> list[float]:
    """A job counts by its evaluations: attainment by evaluations."""
    return [float(each.images * each.evaluations) for each in instance.requests]
