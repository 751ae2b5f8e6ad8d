"""What a column's fast engine did beside its steps."""

import threading
from collections import Counter
from typing import Any

from collodion.worker.optimize.observer import Observer


class Events(Observer):
    """An Observer (`collodion.worker.optimize.observer`) that counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.fallbacks: Counter[str] = Counter()
        self.ready_s: Counter[str] = Counter()
        self.shapes: Counter[str] = Counter()
        self.recompilations = 0
        self.reused_evaluations = 0

    def fell_back(self, reason: str) -> None:
        """See Observer."""
        with self._lock:
            self.fallbacks[reason] += 1

    def made_ready(self, what: str, seconds: float) -> None:
        """See Observer."""
        with self._lock:
            self.ready_s[what] += seconds  # type: ignore[assignment]  # a Counter adds floats as well
            self.shapes[what] += 1

    def recompiled(self) -> None:
        """See Observer."""
        with self._lock:
            self.recompilations += 1

    def reused(self, evaluations: int) -> None:
        """See Observer."""
        with self._lock:
            self.reused_evaluations += evaluations

    def squeezed(self, how: str) -> None:
        """See Observer."""
        with self._lock:
            self.fallbacks[f"decode_{how}"] += 1

    def figures(self) -> dict[str, Any]:
        """All counts so far."""
        with self._lock:
            return {
                "ready_s": dict(self.ready_s),
                "shapes": dict(self.shapes),
                "fallbacks": dict(self.fallbacks),
                "recompilations": self.recompilations,
                "reused_evaluations": self.reused_evaluations,
            }
