"""The scheduler's newest wish: a slot, not a queue, written by the link and read by the device thread at each boundary.

1. A membership for another worker incarnation is ignored, and so is one whose number is not above the last of its scheduler.
2. Another scheduler starts anew: until it says more, its wish is that nothing is held.
3. A scheduler that was replaced is never listened to again.
"""

from collections import deque

from collodion.wire.to_worker import Membership

_REMEMBERED = 16  # replaced schedulers; messages of one that is gone for longer do not exist any more


class Inbox:
    """The newest membership; one thread writes, any may read `newest`."""

    def __init__(self, incarnation: str) -> None:
        self._incarnation = incarnation
        self._replaced: deque[str] = deque(maxlen=_REMEMBERED)
        self.newest = self._nothing(scheduler="")

    def offer(self, membership: Membership) -> bool:
        """Whether this is now the newest wish."""
        if membership.worker != self._incarnation or not self.heard(membership.scheduler):
            return False
        if membership.number <= self.newest.number:
            return False
        self.newest = membership
        return True

    def heard(self, scheduler: str) -> bool:
        """Notes that this scheduler lives; False if it is one that was replaced."""
        if scheduler in self._replaced or not scheduler:
            return False
        if scheduler != self.newest.scheduler:
            self._replaced.append(self.newest.scheduler)
            self.newest = self._nothing(scheduler)
        return True

    def _nothing(self, scheduler: str) -> Membership:
        return Membership(scheduler=scheduler, worker=self._incarnation, number=0, running=())
