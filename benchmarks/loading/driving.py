"""Drives a server through the asyncio client: every request is sent once, followed to its end, and its fate written down.

1. Open loop: each is sent at its moment, whatever became of those before. Closed loop: each of so many users sends the next one when
   its last one came to its end.
2. The client does not try again: one request is one answer.
3. Times are seconds since the run's zero, on this side's clock; on time is what the server says.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from collodion.client import AsyncClient, CollodionError, RetryPolicy
from loading.asking import PROMPT, Reply, Wish
from simulation.instance import Request
from simulation.ledger import Record

_ONCE = RetryPolicy(attempts=1)
_PATIENCE_S = 120.0  # for an answer: a slow one is to be measured, not cut off
_HEAD_START_S = 0.1  # from the making of the tasks to the run's zero
_GETTING_READY = RetryPolicy(attempts=13)
_POLL_S = 0.05


async def until_ready(address: str) -> None:
    """Waits until the server knows of a worker: it listens before its processes have found each other."""
    async with AsyncClient(address, retries=_GETTING_READY) as client:
        while not any(model.workers for model in await client.models()):
            await asyncio.sleep(_POLL_S)


class Driver:
    """Sends requests to the server at `address`, once. `on_reply` hears of each that came to its end."""

    def __init__(self, address: str, wish: Wish, on_reply: Callable[[Reply], object] = lambda _: None) -> None:
        self._address = address
        self._wish = wish
        self._on_reply = on_reply
        self._zero = 0.0

    async def open_loop(self, requests: Sequence[Request]) -> list[Reply]:
        """Sends each at its release. Replies in the order of the requests."""
        async with self._connected() as client:
            sending = (self._at_its_time(client, index, each) for index, each in enumerate(requests))
            return await asyncio.gather(*sending)

    async def closed_loop(self, requests: Sequence[Request], users: int) -> list[Reply]:
        """`users` take the next request each, as soon as they are free. Replies in the order of sending."""
        replies: list[Reply] = []
        coming = enumerate(requests)
        async with self._connected() as client:
            await asyncio.gather(*(self._user(client, coming, replies) for _ in range(users)))
        return sorted(replies, key=lambda reply: reply.sent)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncClient]:
        async with AsyncClient(self._address, retries=_ONCE, timeout_s=_PATIENCE_S) as client:
            await client.models()
            self._zero = asyncio.get_running_loop().time() + _HEAD_START_S
            yield client

    async def _at_its_time(self, client: AsyncClient, index: int, request: Request) -> Reply:
        await asyncio.sleep(request.release - self._now())
        return await self._send(client, index, request)

    async def _user(self, client: AsyncClient, coming: Iterator[tuple[int, Request]], replies: list[Reply]) -> None:
        await asyncio.sleep(-self._now())
        for index, request in coming:
            replies.append(await self._send(client, index, request))

    async def _send(self, client: AsyncClient, index: int, request: Request) -> Reply:
        reply = Reply(request, Record(index, request.evaluations), self._now, sent=self._now())
        try:
            async with contextlib.aclosing(client.stream(PROMPT, **self._wish.options(index, request))) as events:
                async for event in events:
                    reply.hear(event)
        except CollodionError as error:
            reply.failed(error)
        self._on_reply(reply)
        return reply

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._zero
