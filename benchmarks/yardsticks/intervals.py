"""Cuts time into intervals at which windows open and close, and no finer than a budget allows.

Coarsening is a relaxation: within an interval nothing is ordered, so a window that covers part of one may use any part of its devices'
time. How long the window and the interval overlap is kept exactly, whatever the grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yardsticks.windows import Window


@dataclass(frozen=True, slots=True)
class Interval:
    """A piece of time, and the jobs (by place among the windows) that may be evaluated in it, with how many seconds of it."""

    begin: float
    end: float
    overlaps: tuple[tuple[int, float], ...]

    @property
    def length_s(self) -> float:
        """Its length."""
        return self.end - self.begin


def intervals_of(windows: Sequence[Window], budget: float) -> list[Interval]:
    """From the first release to the last deadline; the pairs of job and interval are about `budget` at most, or 2 a job."""
    points = _points(windows, budget)
    overlaps: list[list[tuple[int, float]]] = [[] for _ in points[1:]]
    for place, window in enumerate(windows):
        first, last = _span(points, window)
        for number in range(first, last):
            seconds = window.overlap(points[number], points[number + 1])
            if seconds > 0:
                overlaps[number].append((place, seconds))
    return [
        Interval(begin, end, tuple(pairs))
        for begin, end, pairs in zip(points[:-1].tolist(), points[1:].tolist(), overlaps, strict=True)
    ]


def _points(windows: Sequence[Window], budget: float) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    ends = (min(window.release for window in windows), max(window.deadline for window in windows))
    inner = np.unique([moment for window in windows for moment in (window.opens, window.closes)])
    while True:
        points = np.unique([ends[0], *inner.tolist(), ends[1]])
        pairs = sum(last - first for first, last in (_span(points, window) for window in windows))
        if pairs <= budget or len(inner) <= 2:
            return points
        kept = max(2, int(len(inner) * budget / pairs))
        inner = inner[np.linspace(0, len(inner) - 1, min(kept, len(inner) - 1)).astype(int)]


def _span(points: "np.ndarray[tuple[int], np.dtype[np.float64]]", window: Window) -> tuple[int, int]:
    first = int(np.searchsorted(points, window.opens, side="right")) - 1
    return max(0, first), int(np.searchsorted(points, window.closes, side="left"))
