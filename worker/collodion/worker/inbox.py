"""The scheduler's newest wishes, written by the link and read by the device thread at each boundary.

1. A membership for another worker incarnation is ignored, and so is one whose number is not above the last of its scheduler.
2. One that holds at once replaces all before it. One that names the boundary from which it holds comes behind them: the
   scheduler planned it on the ground that they had their turn.
3. Another scheduler starts anew: until it says more, its wish is that nothing is held.
4. A scheduler that was replaced is never listened to again.
"""

from collections import deque

from collodion.wire.to_worker import Membership

_REMEMBERED = 16  # replaced schedulers; messages of one that is gone for longer do not exist any more
_WISHES = 16  # that wait for their boundary; of more the oldest give way


class Inbox:
    """`wishes` are the newest memberships, the last one last; one thread writes, any may read."""

    def __init__(self, incarnation: str) -> None:
        self._incarnation = incarnation
        self._replaced: deque[str] = deque(maxlen=_REMEMBERED)
        self.wishes: tuple[Membership, ...] = (self._nothing(scheduler=""),)

    @property
    def newest(self) -> Membership:
        """The last one heard."""
        return self.wishes[-1]

    def offer(self, membership: Membership) -> bool:
        """Whether this is now the newest wish."""
        if membership.worker != self._incarnation or not self.heard(membership.scheduler):
            return False
        if membership.number <= self.newest.number:
            return False
        before = () if membership.after is None else self.wishes[1 - _WISHES :]
        self.wishes = (*before, membership)
        return True

    def heard(self, scheduler: str) -> bool:
        """Notes that this scheduler lives; False if it is one that was replaced."""
        if scheduler in self._replaced or not scheduler:
            return False
        if scheduler != self.newest.scheduler:
            self._replaced.append(self.newest.scheduler)
            self.wishes = (self._nothing(scheduler),)
        return True

    def _nothing(self, scheduler: str) -> Membership:
        return Membership(scheduler=scheduler, worker=self._incarnation, number=0, running=())
