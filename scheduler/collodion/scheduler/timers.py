"""Things that fall due, soonest first. An entry that was overtaken stays in line; whoever takes it out has to check."""

import heapq
from collections.abc import Iterator


class Timers:
    """A heap of (Unix seconds, what)."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []

    def add(self, when: float, subject: str) -> None:
        """`subject` falls due at `when`."""
        heapq.heappush(self._heap, (when, subject))

    def due(self, now: float) -> Iterator[tuple[float, str]]:
        """Takes out what is due, soonest first."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)

    def next(self) -> float | None:
        """When the next one falls due."""
        return self._heap[0][0] if self._heap else None
