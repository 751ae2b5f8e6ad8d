"""When the link is rung for what happened on the device thread.

It is rung only right before the device is given its next batch, or when there is none, so that the link's work falls into the time
of a model call and not into the gap between two. Progress waits for the report interval; what is urgent does not.
"""

import time

from collodion.worker.outbox import Outbox


class News:
    """Notes what is to be told. Device thread only."""

    def __init__(self, outbox: Outbox, interval_s: float) -> None:
        self._outbox = outbox
        self._interval_s = interval_s
        self._due = 0.0
        self._noted = self._urgent = False

    def note(self) -> None:
        """There is progress, which may wait."""
        self._noted = True

    def urge(self) -> None:
        """A latent changed its stage, or a wish was applied."""
        self._urgent = True

    def tell(self, *, at_rest: bool = False) -> None:
        """Rings if it is time to; at rest everything is."""
        now = time.monotonic()
        if self._urgent or (self._noted and (at_rest or now >= self._due)):
            self._noted = self._urgent = False
            self._due = now + self._interval_s
            self._outbox.ring()
