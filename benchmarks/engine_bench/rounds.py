"""One cell: every column once a round, in an order drawn anew, after the same warm-up."""

import itertools
import random
from collections.abc import Callable, Mapping

import torch

from engine_bench.cells import Cell, Samples
from engine_bench.clocks import Clock, Peak, rate_of, settle
from engine_bench.drawing import Contestant, Drawn
from engine_bench.subjects import Subject

_WARM_STEPS = 3
_takes = itertools.count(1)  # text encodings may be remembered: every round has prompts of its own

Tick = Callable[[str], None]
"""Told where it stands."""


class Rounds:
    """samples: of the columns that drew all of their rounds. failures: why the others did not."""

    def __init__(
        self, cell: Cell, subject: Subject, sides: Mapping[str, Contestant], place: torch.device, clock: Clock
    ) -> None:
        self._cell = cell
        self._subject = subject
        self._sides = dict(sides)
        self._place = place
        self._clock = clock
        self._take = next(_takes)
        self.samples = {name: Samples() for name in sides}
        self.failures: dict[str, Exception] = {}

    def run(self, rounds: int, tick: Tick) -> None:
        """Whatever a column raises ends that column alone."""
        for name in list(self._sides):
            tick(f"{self._cell}: warming {name}")
            self._guarded(name, self._warm)
        for number in range(rounds):
            self._take = next(_takes)
            order = list(self._sides)
            random.shuffle(order)
            for name in order:
                tick(f"{self._cell}: round {number + 1} of {rounds}: {name}")
                self._guarded(name, self._timed)

    def _guarded(self, name: str, draw: Callable[[str], None]) -> None:
        try:
            draw(name)
        except Exception as error:  # a loop's edge: whatever a package does in its column, the others go on
            self.failures[name] = error
            del self._sides[name], self.samples[name]

    def _warm(self, name: str) -> None:
        """A few steps and everything else: this takes as much memory as all of them."""
        with Peak(self._place) as peak:
            self._drawn(name, min(_WARM_STEPS, self._cell.steps))
        self.samples[name].peak_bytes = peak.bytes

    def _timed(self, name: str) -> None:
        settle(self._place)
        began = self._clock()
        drawn = self._drawn(name, self._cell.steps)
        self.samples[name].add(self._clock() - began, rate_of(drawn.step_s), drawn.gaps)

    def _drawn(self, name: str, steps: int) -> Drawn:
        drawn = self._sides[name].draw(self._subject.jobs(self._cell.batch, steps, self._take))
        settle(self._place)
        return drawn
