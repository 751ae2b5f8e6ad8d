"""How many requests were in the system, over time."""


class Queues:
    """Notes arrivals and departures; `in_system` is (seconds, requests) at every change."""

    def __init__(self) -> None:
        self._inside: set[int] = set()
        self.in_system: list[tuple[float, int]] = []

    def came(self, when: float, request: int) -> None:
        """A request was submitted."""
        self._inside.add(request)
        self.in_system.append((when, len(self._inside)))

    def left(self, when: float, request: int) -> None:
        """It has an outcome."""
        self._inside.discard(request)
        self.in_system.append((when, len(self._inside)))


def thinned(curve: list[tuple[float, int]], most: int = 600) -> list[tuple[float, int]]:
    """At most about so many points of a step curve: of each stretch of time its highest."""
    if len(curve) <= most:
        return list(curve)
    width = (curve[-1][0] - curve[0][0]) / most or 1.0
    highest: dict[int, tuple[float, int]] = {}
    for when, value in curve:
        part = int((when - curve[0][0]) / width)
        if part not in highest or value >= highest[part][1]:
            highest[part] = when, value
    return list(highest.values())
