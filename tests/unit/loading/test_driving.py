"""Open and closed loop, against a client that answers when it is told to."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest

from collodion.client import Event, Finished, ServerBusy, Timings
from loading import driving
from loading.asking import Reply, Wish
from loading.driving import Driver
from simulation.instance import Request
from simulation.ledger import Outcome

REQUESTS = [Request(0.01 * index, 10.0, "m/64x64", 5) for index in range(6)]
DONE = Finished("J", None, Timings(0.0, 0.0, 0.0, 0.0), deadline_met=True)


class Answering:
    """A client whose server takes a few turns of the event loop for each job, and refuses those whose index is in `refuses`."""

    refuses: frozenset[int] = frozenset()
    open = 0
    most_open = 0
    asked: list[int]

    def __init__(self, address: str, **_: Any) -> None:
        type(self).asked = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def models(self) -> None:
        return None

    async def stream(self, prompt: str, **options: Any) -> AsyncIterator[Event]:
        kind = type(self)
        index = int(options["labels"]["request"])
        kind.asked.append(index)
        kind.open += 1
        kind.most_open = max(kind.most_open, kind.open)
        for _ in range(3):
            await asyncio.sleep(0)
        kind.open -= 1
        if index in kind.refuses:
            raise ServerBusy("full", reason="QUEUE_FULL")
        yield DONE


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[Answering]:
    kind = type("Client", (Answering,), {})
    monkeypatch.setattr(driving, "AsyncClient", kind)
    return kind


def test_open_loop_sends_each_at_its_time_in_order(client: type[Answering]) -> None:
    replies = asyncio.run(Driver("", Wish()).open_loop(REQUESTS))
    assert client.asked == list(range(6))
    assert all(reply.sent >= reply.request.release for reply in replies)
    assert [reply.record.index for reply in replies] == list(range(6))


def test_closed_loop_has_no_more_open_than_there_are_users(client: type[Answering]) -> None:
    replies = asyncio.run(Driver("", Wish()).closed_loop(REQUESTS, users=2))
    assert client.most_open == 2
    assert sorted(reply.record.index for reply in replies) == list(range(6))


def test_closed_loop_tells_replies_in_the_order_of_sending(client: type[Answering]) -> None:
    replies = asyncio.run(Driver("", Wish()).closed_loop(REQUESTS, users=3))
    assert [reply.sent for reply in replies] == sorted(reply.sent for reply in replies)


def test_a_refusal_ends_one_request_and_no_other(client: type[Answering]) -> None:
    client.refuses = frozenset({1, 4})
    heard: list[Reply] = []
    replies = asyncio.run(Driver("", Wish(), heard.append).open_loop(REQUESTS))
    assert [index for index, each in enumerate(replies) if each.record.outcome is Outcome.REFUSED] == [1, 4]
    assert len(heard) == 6
