"""The lane samples that a virtual worker says with its next report.

Of equal batches it tells a few: on an exact device one says all, on a noisy one several show the spread.
"""

from collections.abc import Sequence

from collodion.wire.to_scheduler import Lane

_TOLD_OF_NOISY = 4


class Samples:
    """Collects samples by lane, key and batch size."""

    def __init__(self, exact: bool) -> None:
        self._most = 1 if exact else _TOLD_OF_NOISY
        self._taken: dict[tuple[str, str, int], list[float]] = {}

    def add(self, lane: str, key: str, batch: int, durations: Sequence[float]) -> None:
        """So many batches of one kind took so long."""
        told = self._taken.setdefault((lane, key, batch), [])
        if (free := self._most - len(told)) > 0:
            told.extend(durations[:free])

    def take(self) -> tuple[Lane, ...]:
        """All of them; none are left."""
        if not self._taken:
            return ()
        taken, self._taken = self._taken, {}
        return tuple(Lane(*kind, seconds) for kind, told in taken.items() for seconds in told)
