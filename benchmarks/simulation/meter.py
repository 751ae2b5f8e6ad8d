"""CPU time of the core's handling, by kind of event. Garbage collection is left on, and counts."""

import statistics
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Handling:
    """How long events of one kind took, in CPU seconds."""

    count: int
    total_s: float
    mean_s: float
    median_s: float
    p99_s: float
    most_s: float


class Meter:
    """Collects what each event cost."""

    def __init__(self) -> None:
        self._taken: dict[str, array[float]] = {}

    def measure(self, kind: str, work: Callable[[], _T]) -> _T:
        """What `work` returns; its CPU time is noted."""
        began = time.thread_time_ns()
        result = work()
        self._taken.setdefault(kind, array("d")).append((time.thread_time_ns() - began) / 1e9)
        return result

    def handlings(self) -> dict[str, Handling]:
        """By kind of event."""
        return {kind: _handling(taken) for kind, taken in self._taken.items()}


def _handling(taken: "array[float]") -> Handling:
    ascending = sorted(taken)
    p99 = ascending[min(len(ascending) - 1, int(len(ascending) * 0.99))]
    total = sum(ascending)
    median = statistics.median(ascending)
    return Handling(len(ascending), total, total / len(ascending), median, p99, ascending[-1])
