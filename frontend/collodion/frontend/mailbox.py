"""What waits for one stream's reader: bounded, whatever the reader does.

What comes out is a subsequence of what was put in, with every event that has no coalescing key in it, and for every key the newest.
An event with a key gives way to the next of its key: progress and previews always (`coalesce`), stages and warnings only once
`bound` events wait, and without `coalesce` all of them only then. Events without a key (accepted, images, the end) are as many as a
job has images, so the whole is bounded by `bound` plus those.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

from collodion.frontend.errors import CallError
from collodion.wire.jobs import StoredImage


class Item(NamedTuple):
    """One event on its way to clients, shared by all streams that it goes to.

    `payload` is the serialized response, or a stored image whose bytes are read only when the stream can take them.
    `fleeting` items are those that a slow reader may miss.
    """

    kind: str
    key: Hashable | None
    fleeting: bool
    last: bool
    payload: bytes | StoredImage
    time: float


class Mailbox:
    """Filled by the link, emptied by one RPC's handler, on one event loop."""

    def __init__(self, bound: int, coalesce: bool) -> None:
        self._bound = bound
        self._coalesce = coalesce
        self._items: OrderedDict[int, Item] = OrderedDict()  # by order of arrival
        self._newest: dict[Hashable, int] = {}
        self._arrived = 0
        self._error: CallError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: Item) -> Item | None:
        """Adds an event; returns the one that gave way to it, if any."""
        replaced = None
        self._arrived += 1
        if item.key is not None:
            if (self._coalesce and item.fleeting) or len(self._items) >= self._bound:
                replaced = self._items.pop(self._newest.get(item.key, 0), None)
            self._newest[item.key] = self._arrived
        self._items[self._arrived] = item
        self._wake()
        return replaced

    def fail(self, error: CallError) -> None:
        """The stream ends with `error`, after what waits already. The first error stands."""
        self._error = self._error or error
        self._wake()

    async def take(self) -> Item:
        """The oldest event; waits for one. Raises CallError after the last."""
        while not self._items:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._items.popitem(last=False)[1]

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._waiter = None
