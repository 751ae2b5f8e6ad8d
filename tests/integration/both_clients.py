"""The blocking client and that for asyncio behind one call, so that a test holds for both."""

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

from collodion.client import AsyncClient, Client, RetryPolicy
from tests.integration.fake_server import FakeServer

FAST = RetryPolicy(attempts=3, initial_s=0.001, longest_s=0.01)


class Blocking:
    """Calls a method of `Client`."""

    def __call__(self, server: FakeServer, method: str, *arguments: Any, timeout_s: float = 10, **more: Any) -> Any:
        with Client(server.address, retries=FAST, reattaching=FAST, timeout_s=timeout_s) as client:
            answer = getattr(client, method)(*arguments, **more)
            return list(answer) if isinstance(answer, Iterator) else answer


class Async:
    """Calls a method of `AsyncClient`."""

    def __call__(self, server: FakeServer, method: str, *arguments: Any, timeout_s: float = 10, **more: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(server.address, retries=FAST, reattaching=FAST, timeout_s=timeout_s) as client:
                answer = getattr(client, method)(*arguments, **more)
                return [item async for item in answer] if inspect.isasyncgen(answer) else await answer

        return asyncio.run(run())
