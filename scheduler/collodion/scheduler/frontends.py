"""The frontends: which are heard, and what each was told of the catalogue.

1. A frontend is known from its first message on, and silent when it missed its beats. A silent one is told nothing, and forgotten
   when the grace of its jobs is over.
2. Call numbers are a frontend's own and used once: a SubmitJob or WatchJob that comes twice is one.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from collodion.scheduler.events import Outbox, TellFrontend
from collodion.wire.to_frontend import Catalogue

_REMEMBERED_CALLS = 4096


@dataclass(slots=True, eq=False)
class Frontend:
    """One frontend process; `heard` is Unix seconds, `calls` its latest SubmitJobs and WatchJobs.

    `stalled` from a failed catalogue until it is heard again: to offer it at once again would only fail again, for ever.
    """

    peer: bytes
    heard: float
    silent: bool = False
    stalled: bool = False
    catalogue: Catalogue | None = None
    calls: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def is_new(self, call: int) -> bool:
        """Whether nothing was submitted or watched under this number before."""
        if call in self.calls:
            return False
        self.calls[call] = None
        if len(self.calls) > _REMEMBERED_CALLS:
            self.calls.popitem(last=False)
        return True


class Frontends:
    """All frontends that are known."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._known: dict[bytes, Frontend] = {}

    def heard(self, peer: bytes, now: float) -> tuple[Frontend, bool]:
        """The frontend that said something, and whether it is new."""
        frontend = self._known.get(peer)
        is_new = frontend is None
        if frontend is None:
            frontend = self._known[peer] = Frontend(peer, now)
        frontend.heard, frontend.silent, frontend.stalled = now, False, False
        return frontend, is_new

    def present(self) -> Iterator[Frontend]:
        """Those that are not silent."""
        return (frontend for frontend in self._known.values() if not frontend.silent)

    def offer(self, catalogue: Catalogue) -> None:
        """Tells the catalogue to all that do not have this very one."""
        for frontend in self.present():
            if frontend.catalogue is not catalogue and not frontend.stalled:
                frontend.catalogue = catalogue
                self._outbox.add(TellFrontend(frontend.peer, catalogue))

    def missed_catalogue(self, peer: bytes) -> None:
        """The catalogue did not get through; it is sent again when the frontend is heard."""
        if (frontend := self._known.get(peer)) is not None:
            frontend.catalogue, frontend.stalled = None, True

    def fallen_silent(self, before: float) -> Iterator[bytes]:
        """Marks as silent, and yields, those not heard since a time."""
        for frontend in self.present():
            if frontend.heard < before:
                frontend.silent = True
                yield frontend.peer

    def forget(self, before: float) -> list[bytes]:
        """Forgets those not heard since a time."""
        gone = [peer for peer, frontend in self._known.items() if frontend.heard < before]
        for peer in gone:
            del self._known[peer]
        return gone
