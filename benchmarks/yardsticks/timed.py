"""The time-indexed bound: the linear programme of `simple`, in every interval of time.

Variables: z_j, job j is on time (0 to 1); x_jk, evaluations of its latents in interval k; y_gcbk, batches of key c and size b on
devices of group g in interval k; s_jk, device seconds of its encode and decodes in interval k. Take any schedule, strike from its
batches all members whose job is late (with padded costs no batch becomes longer), and split every batch, encode and decode over the
intervals in proportion to the time it has in each: a batch that straddles the end of an interval counts with that fraction of
itself, of its members' evaluations and of its duration on either side. What remains obeys

- z_j: the x_jk sum up to evaluations * images * z_j, the s_jk to `beside_s` * z_j at least (`beside_s` is at the best batch sizes);
- members: the batches of a key in an interval have as many (fractions of) members as its jobs have evaluations there;
- device time: batches, encodes and decodes fit into the interval's length, times the devices; batches into each group's;
- one evaluation a batch: x_jk <= images * (batches of its key in interval k), as a latent is at most once in each;
- one batch at a time: x_jk <= images * overlap / L(1), with the overlap of the job's window and the interval;
- presence: members' time b * L(b) of a key in an interval <= the sum of images * overlap * z_j.

Each holds for whole batches and for any fraction of them alike, so that splitting is a relaxation: every schedule is still a point of
the programme, and no schedule is worth more than the maximum. Summed over the intervals the rows give those of `simple`, so this bound
is never above it, whatever the grid; the smaller of both is reported all the same, for solvers have tolerances.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from yardsticks.curves import corners
from yardsticks.intervals import Interval, intervals_of
from yardsticks.programme import Programme, Term
from yardsticks.windows import Group, Window


def timed_bound(
    windows: Sequence[Window], groups: Sequence[Group], weights: Sequence[float], budget: float = math.inf
) -> float:
    """The sum of weights of on-time jobs at most. `weights` are by a job's index in its instance, `budget` is `intervals_of`'s."""
    if not windows:
        return 0.0
    model = _Model(windows, groups, weights)
    for interval in intervals_of(windows, budget):
        model.add(interval)
    return model.maximum()


@dataclass(frozen=True, slots=True)
class _Batch:
    """Batches of one size in one interval: y_gcbk."""

    variable: int
    group: int
    size: int
    cost_s: float


class _Model:
    """The programme, written interval by interval. Lists go by a job's place among the windows."""

    def __init__(self, windows: Sequence[Window], groups: Sequence[Group], weights: Sequence[float]) -> None:
        self._windows = windows
        self._groups = groups
        self._programme = Programme()
        self._on_time = [self._programme.variable(1.0, weights[window.index]) for window in windows]
        self._evaluations: list[list[Term]] = [[] for _ in windows]
        self._beside: list[list[Term]] = [[] for _ in windows]

    def add(self, interval: Interval) -> None:
        """All rows of one interval."""
        keys = dict.fromkeys(self._windows[place].key for place, _ in interval.overlaps)
        batches = [batch for key in keys for batch in self._add_key(interval, key)]
        times = [(batch.variable, batch.cost_s) for batch in batches]
        devices = sum(group.devices for group in self._groups)
        self._programme.at_most([*times, *self._add_beside(interval)], interval.length_s * devices)
        if len(self._groups) > 1:
            for number, group in enumerate(self._groups):
                own = [(batch.variable, batch.cost_s) for batch in batches if batch.group == number]
                self._programme.at_most(own, interval.length_s * group.devices)

    def maximum(self) -> float:
        """When all intervals are added."""
        for place, window in enumerate(self._windows):
            z = self._on_time[place]
            self._programme.equal([*self._evaluations[place], (z, -float(window.latent_evaluations))], 0.0)
            self._programme.equal([*self._beside[place], (z, -window.beside_s)], 0.0)
        return self._programme.maximum()

    def _add_key(self, interval: Interval, key: str) -> list[_Batch]:
        batches = self._batches(key)
        members: list[Term] = [(batch.variable, -float(batch.size)) for batch in batches]
        presence: list[Term] = [(batch.variable, batch.size * batch.cost_s) for batch in batches]
        for place, overlap_s in interval.overlaps:
            window = self._windows[place]
            if window.key == key:
                evaluations = self._programme.variable(window.images * overlap_s / window.least_s)
                self._evaluations[place].append((evaluations, 1.0))
                self._programme.at_most(
                    [(evaluations, 1.0), *((batch.variable, -float(window.images)) for batch in batches)], 0.0
                )
                members.append((evaluations, 1.0))
                presence.append((self._on_time[place], -window.images * overlap_s))
        self._programme.equal(members, 0.0)
        self._programme.at_most(presence, 0.0)
        return batches

    def _add_beside(self, interval: Interval) -> list[Term]:
        made: list[Term] = []
        for place, window in enumerate(self._windows):
            if window.release < interval.end and window.deadline > interval.begin:
                made.append((self._programme.variable(), 1.0))
                self._beside[place].append(made[-1])
        return made

    def _batches(self, key: str) -> list[_Batch]:
        return [
            _Batch(self._programme.variable(), number, size, group.curves[key].step[size])
            for number, group in enumerate(self._groups)
            if key in group.curves
            for size in corners(group.curves[key].step)
        ]
