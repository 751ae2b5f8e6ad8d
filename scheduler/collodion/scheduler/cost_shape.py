"""From what is known at some batch sizes to what every size costs.

1. Between two known sizes a cost is interpolated; costs need not be monotone.
2. Beyond the known sizes a cost is a guess on the slow side: half way between the straight line through what is known and
   the slower plain guess (above: in proportion to the size; below: as much as the smallest known size).
3. With one known size there is no line, and the plain guesses stand alone.
"""

from bisect import bisect_left
from collections.abc import Sequence


def interpolated(sizes: Sequence[int], values: Sequence[float], size: int) -> float:
    """The value at `size` between its neighbours; outside them the nearest one's. `sizes` ascend, and there is at least one."""
    after = bisect_left(sizes, size)
    if after == 0:
        return values[0]
    if after == len(sizes):
        return values[-1]
    low, high = sizes[after - 1], sizes[after]
    share = (size - low) / (high - low)
    return values[after - 1] + share * (values[after] - values[after - 1])


class Shape:
    """Seconds by batch size through known points. `sizes` ascend from 1 or more, `seconds` are above 0; at least one of each."""

    def __init__(self, sizes: Sequence[int], seconds: Sequence[float]) -> None:
        self._sizes = sizes
        self._seconds = seconds
        self._slope = _slope(sizes, seconds)

    def at(self, size: int) -> float:
        """Seconds of a batch of `size` (1 or more), known or guessed."""
        if size < self._sizes[0]:
            return self._below(size)
        if size > self._sizes[-1]:
            return self._above(size)
        return interpolated(self._sizes, self._seconds, size)

    def _below(self, size: int) -> float:
        smallest, cost = self._sizes[0], self._seconds[0]
        if self._slope is None:
            return cost
        line = max(cost - self._slope * (smallest - size), cost * size / smallest)
        return (min(line, cost) + cost) / 2

    def _above(self, size: int) -> float:
        largest, cost = self._sizes[-1], self._seconds[-1]
        proportional = cost * size / largest
        if self._slope is None:
            return proportional
        last = (cost - self._seconds[-2]) / (largest - self._sizes[-2])
        line = cost + max(self._slope, last, 0.0) * (size - largest)
        return max(line, (line + proportional) / 2)


def _slope(sizes: Sequence[int], seconds: Sequence[float]) -> float | None:
    """Of the straight line that fits best, by least squares; None through a single point."""
    count = len(sizes)
    if count < 2:
        return None
    middle, mean = sum(sizes) / count, sum(seconds) / count
    spread = sum((size - middle) ** 2 for size in sizes)
    return sum((size - middle) * (cost - mean) for size, cost in zip(sizes, seconds, strict=True)) / spread
