"""What a batch takes on a device, learned from the workers' reports.

1. One figure for each lane (step, encode, decode), batch key and batch size: an average that forgets slowly, and quickly
   while it is young, so that the first, slow call of a new shape does not linger.
2. Between measured sizes it is interpolated. Below the smallest it is that one's, above the largest it grows in proportion: both
   are guesses on the slow side.
3. What was never measured is None, never a guess.
4. Bounded: a key that was not reported for longest makes room for a new one.
"""

import math
from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass, field

STEP = "step"
DECODE = "decode"

_WEIGHT = 0.1  # of a new measurement, once ten are there
_KEYS = 1024


@dataclass(slots=True)
class _Curve:
    sizes: list[int] = field(default_factory=list)
    seconds: dict[int, float] = field(default_factory=dict)
    samples: dict[int, int] = field(default_factory=dict)

    def learn(self, size: int, seconds: float) -> None:
        seen = self.samples.get(size, 0)
        if not seen:
            self.sizes.insert(bisect_left(self.sizes, size), size)
            self.seconds[size] = seconds
        weight = max(_WEIGHT, 1 / (seen + 1))
        self.seconds[size] += weight * (seconds - self.seconds[size])
        self.samples[size] = seen + 1

    def at(self, size: int) -> float:
        after = bisect_left(self.sizes, size)
        if after == 0:
            return self.seconds[self.sizes[0]]
        below = self.sizes[after - 1]
        if after == len(self.sizes):
            return self.seconds[below] * size / below
        above = self.sizes[after]
        share = (size - below) / (above - below)
        return self.seconds[below] + share * (self.seconds[above] - self.seconds[below])


class CostTable:
    """The learned figures of all lanes."""

    def __init__(self) -> None:
        self._curves: OrderedDict[tuple[str, str], _Curve] = OrderedDict()

    def learn(self, lane: str, key: str, size: int, seconds: float) -> None:
        """One batch of `size` took so long. What cannot be a measurement is ignored."""
        if size < 1 or not math.isfinite(seconds) or seconds < 0:
            return
        curve = self._curves.setdefault((lane, key), _Curve())
        curve.learn(size, seconds)
        self._curves.move_to_end((lane, key))
        if len(self._curves) > _KEYS:
            self._curves.popitem(last=False)

    def seconds(self, lane: str, key: str, size: int) -> float | None:
        """What a batch of `size` (1 or more) takes; None if nothing was measured for this lane and key."""
        curve = self._curves.get((lane, key))
        return curve.at(size) if curve else None
