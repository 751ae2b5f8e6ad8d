"""The virtual clock: what is to happen, by time; what was entered first comes first where times are equal."""

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

Action = Callable[[Any], None]


class Agenda:
    """A heap of actions. `now` (seconds) never goes back."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Action, Any]] = []
        self._entered = count()

    def at(self, when: float, action: Action, argument: Any = None) -> None:
        """`action(argument)` is due at `when`."""
        heapq.heappush(self._heap, (when, next(self._entered), action, argument))

    def next(self) -> float | None:
        """When the next action is due; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def step(self) -> None:
        """Goes to the next action's time and carries it out."""
        when, _, action, argument = heapq.heappop(self._heap)
        self.now = max(self.now, when)
        action(argument)
