"""What waits to be said to the scheduler, and the bell that wakes the link.

Ringing twice before the link wakes is ringing once. When the device thread rings: `news`.
"""

import contextlib
import queue
import socket
import time
from collections import deque
from typing import NamedTuple

from collodion.wire.to_scheduler import PreviewMade
from collodion.worker.holdings import Held

_SAMPLES_KEPT = 10_000  # of a link that does not keep up, the newest


class Sample(NamedTuple):
    """What one batch cost; `lane` and `batch` as in the wire's Lane.

    evaluations: latents that a step brought forward. gap_s: how long the device was idle since the step before, if the step
    came right after one. whole: nothing was left out of it, so that it says what such a batch costs.
    """

    lane: str
    model: str
    key: str
    batch: int
    seconds: float
    evaluations: int = 0
    gap_s: float | None = None
    whole: bool = True


class Outbox:
    """Filled by the device thread and its helpers, emptied by the link.

    `boundary` is when (monotonic, seconds) the latents were as far as they say. Where evaluations are issued ahead of the device
    it is when the last one was.
    """

    def __init__(self) -> None:
        self.held = Held()
        self.boundary = time.monotonic()
        self.samples: deque[Sample] = deque(maxlen=_SAMPLES_KEPT)
        self.previews: queue.SimpleQueue[tuple[PreviewMade, bytes]] = queue.SimpleQueue()
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)

    def fileno(self) -> int:
        """Readable when the link was rung for."""
        return self._bell.fileno()

    def ring(self) -> None:
        """Wakes the link: there is something to be said at once."""
        with contextlib.suppress(OSError):  # it has been rung often enough, or nobody listens any more
            self._ringer.send(b"!")

    def answer(self) -> None:
        """The link is awake."""
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(4096)

    def close(self) -> None:
        """Nobody rings any more."""
        self._bell.close()
        self._ringer.close()
