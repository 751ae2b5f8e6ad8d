"""From what is known at some batch sizes to what every size costs.

1. Between two known sizes a cost is interpolated; costs need not be monotone.
2. Beyond the known sizes a cost is a guess on the slow side: half way between the straight line through what is known and
   the slower plain guess (above: in proportion to the size; below: as much as the smallest known size).
3. With one known size the plain guesses stand alone, but for a tenth less growth above it: if larger batches promised nothing, nobody would
   ever try one.
"""

from collections.abc import Sequence

_UNTRIED = 0.9
_LAST = 4  # points that say how it goes on; fewer would make much of a small error


def filled(sizes: Sequence[int], values: Sequence[float], upto: int) -> list[float]:
    """Values for 1 to `upto`: interpolated between the known, the nearest one's outside. `sizes` ascend, with one at least."""
    table = [values[0]] * min(sizes[0], upto)
    for index in range(1, len(sizes)):
        low, high = sizes[index - 1], sizes[index]
        if low >= upto:
            break
        first = values[index - 1]
        slope = (values[index] - first) / (high - low)
        table.extend([first + slope * step for step in range(1, min(high, upto) - low + 1)])
    table.extend([values[-1]] * (upto - len(table)))
    return table


def costs(sizes: Sequence[int], seconds: Sequence[float], upto: int) -> list[float]:
    """Seconds of batches of 1 to `upto`, known or guessed. `sizes` ascend from 1 or more, `seconds` are above 0; one at least."""
    table = filled(sizes, seconds, upto)
    slope = _slope(sizes, seconds)
    smallest, cost = sizes[0], seconds[0]
    if slope is not None:
        for size in range(1, min(smallest, upto + 1)):
            line = max(cost - slope * (smallest - size), cost * size / smallest)
            table[size - 1] = (min(line, cost) + cost) / 2
    largest, cost = sizes[-1], seconds[-1]
    growth = _above(slope, sizes, seconds)
    for size in range(largest + 1, upto + 1):
        table[size - 1] = cost + growth * (size - largest)
    return table


def _above(slope: float | None, sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """What one more costs beyond the largest known size."""
    proportional = seconds[-1] / sizes[-1]
    if slope is None:
        return _UNTRIED * proportional
    line = max(slope, _slope(sizes[-_LAST:], seconds[-_LAST:]) or 0.0, 0.0)
    return max(line, (line + proportional) / 2)


def _slope(sizes: Sequence[int], seconds: Sequence[float]) -> float | None:
    """Of the straight line that fits best, by least squares; None through a single point."""
    count = len(sizes)
    if count < 2:
        return None
    middle, mean = sum(sizes) / count, sum(seconds) / count
    spread = sum((size - middle) ** 2 for size in sizes)
    return sum((size - middle) * (cost - mean) for size, cost in zip(sizes, seconds, strict=True)) / spread
