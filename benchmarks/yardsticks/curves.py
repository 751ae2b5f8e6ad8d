"""Cost tables in the shape that bounds need: what batches take at least, with 0 at batch 0.

1. Padded: a batch may be run as if it were larger, so a batch of b costs the least of all sizes from b up. Tables need not be monotone,
   padded ones are. Padding only makes batches cheaper.
2. Packed: members beyond the largest batch go into several. `packed[n]` is the cheapest way to run n members, each once.
3. Corners are the sizes on the lower convex hull of a padded table. Any mix of batches is matched or beaten by a mix of corners with
   the same number of batches, the same number of members and no more time, as time at a size is nowhere below the hull.
4. A line below is an (intercept, slope) with intercept + slope * b <= cost(b) for every b from 1 up, both at least 0.
"""

from collections.abc import Sequence
from itertools import pairwise

from simulation.instance import seconds


def padded(table: tuple[float, ...], most: int) -> list[float]:
    """What batches of 0 to `most` members take at least (rule 1)."""
    costs = [0.0, *(seconds(table, batch) for batch in range(1, most + 1))]
    for batch in range(most - 1, 0, -1):
        costs[batch] = min(costs[batch], costs[batch + 1])
    return costs


def packed(costs: Sequence[int], members: int) -> list[int]:
    """What 0 to `members` members take at least in batches of a padded table (rule 2)."""
    cheapest = [0]
    for count in range(1, members + 1):
        largest = min(count, len(costs) - 1)
        cheapest.append(min(costs[batch] + cheapest[count - batch] for batch in range(1, largest + 1)))
    return cheapest


def corners(costs: Sequence[float]) -> list[int]:
    """Batch sizes on the lower hull of a padded table, ascending, the first and the last among them (rule 3)."""
    hull: list[int] = []
    for batch in range(1, len(costs)):
        while len(hull) > 1 and _above(costs, hull[-2], hull[-1], batch):
            hull.pop()
        hull.append(batch)
    return hull


def lines_below(costs: Sequence[float]) -> list[tuple[float, float]]:
    """(intercept, slope) of the lines below a padded table that touch it, the steepest last; the last goes through 0 (rule 4)."""
    hull = corners(costs)
    lines = []
    for one, next_one in pairwise(hull):
        slope = (costs[next_one] - costs[one]) / (next_one - one)
        if costs[one] - slope * one >= 0:
            lines.append((costs[one] - slope * one, slope))
    return [*lines, (0.0, min(costs[batch] / batch for batch in hull))]


def _above(costs: Sequence[float], left: int, middle: int, right: int) -> bool:
    return (costs[middle] - costs[left]) * (right - middle) >= (costs[right] - costs[middle]) * (middle - left)
