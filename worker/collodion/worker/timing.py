"""How long work took on the device, and how long the device had nothing to do before it."""

import time
from typing import Any, Protocol


class Span(Protocol):
    """The time of one batch on the device. Entered before its first operation is issued, left after the last one."""

    def __enter__(self) -> Any:
        """Stamps the beginning."""

    def __exit__(self, *exc: object) -> None:
        """Stamps the end."""

    def wait(self) -> float:
        """Blocks until the device is done with the batch; how many seconds the device took."""

    def gap_after(self, previous: Any) -> float:
        """Seconds from the end of `previous`, a span of the same kind, to the beginning of this one. Both are done."""


class HostSpan:
    """A span of work that the calling thread does itself: on a CPU, or simulated."""

    __slots__ = ("began", "ended")

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def __enter__(self) -> "HostSpan":
        self.began = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        self.ended = time.perf_counter()

    def wait(self) -> float:
        """See Span."""
        return self.ended - self.began

    def gap_after(self, previous: "HostSpan") -> float:
        """See Span."""
        return self.began - previous.ended
