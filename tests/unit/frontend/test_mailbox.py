"""The mailbox of a stream: bounded, in order, and nothing lost that may not be."""

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collodion.frontend.errors import CallError
from collodion.frontend.mailbox import Item, Mailbox
from collodion.wire.jobs import Reason

IMAGES = 4


def item(kind: str, index: int, number: int) -> Item:
    key = None if kind in ("image", "ended") else (kind, index)
    return Item(kind, key, kind in ("progress", "preview"), kind == "ended", str(number).encode(), 0.0)


ITEMS = st.lists(
    st.tuples(st.sampled_from(["progress", "preview", "stage", "warning", "image"]), st.integers(0, IMAGES - 1)),
    max_size=200,
)
TAKES = st.lists(st.integers(0, 200), max_size=20)


def drained(mailbox: Mailbox, most: int = 10_000) -> list[Item]:
    async def drain() -> list[Item]:
        taken: list[Item] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):  # take waits only where nothing is left
                while len(taken) < most:
                    taken.append(await mailbox.take())
        return taken

    return asyncio.run(drain())


@given(arrivals=ITEMS, takes=TAKES, coalesce=st.booleans(), bound=st.integers(1, 50))
def test_what_comes_out_is_in_order_complete_where_it_must_be_and_bounded(arrivals, takes, coalesce, bound) -> None:
    mailbox = Mailbox(bound, coalesce)
    put = [item(kind, index, number) for number, (kind, index) in enumerate(arrivals)]
    out: list[Item] = []
    replaced: list[Item] = []
    for number, one in enumerate(put):
        gave_way = mailbox.put(one)
        replaced += [gave_way] if gave_way is not None else []
        if number in takes:
            out += drained(mailbox, 1)
        unkeyed = sum(1 for other in put[: number + 1] if other.key is None)
        waiting = number + 1 - len(out) - len(replaced)
        assert waiting <= bound + unkeyed + 4 * IMAGES
    out += drained(mailbox)
    numbers = [int(one.payload) for one in out]
    assert numbers == sorted(numbers)
    assert sorted(numbers + [int(one.payload) for one in replaced]) == list(range(len(put)))
    assert all(one.key is not None for one in replaced)
    for key in {one.key for one in put if one.key is not None}:
        assert max(int(one.payload) for one in put if one.key == key) in numbers
    if len(put) < bound:
        assert all(one.fleeting and coalesce for one in replaced)


def test_only_the_newest_progress_of_an_image_waits_for_a_slow_reader() -> None:
    mailbox = Mailbox(100, coalesce=True)
    for step in range(10):
        mailbox.put(item("progress", 0, step))
        mailbox.put(item("progress", 1, 100 + step))
    assert [one.payload for one in drained(mailbox)] == [b"9", b"109"]


def test_an_error_comes_after_what_waits_and_the_first_error_stands() -> None:
    async def play() -> list[str]:
        mailbox = Mailbox(100, coalesce=True)
        mailbox.put(item("image", 0, 1))
        mailbox.fail(CallError(Reason.DRAINING, "first"))
        mailbox.fail(CallError(Reason.INTERNAL, "second"))
        heard = [(await mailbox.take()).kind]
        with pytest.raises(CallError, match="first"):
            await mailbox.take()
        return heard

    assert asyncio.run(play()) == ["image"]


def test_a_waiting_reader_is_woken_by_an_event_and_by_an_error() -> None:
    async def play() -> str:
        mailbox = Mailbox(100, coalesce=True)
        async with asyncio.timeout(5):
            first = asyncio.create_task(mailbox.take())
            await asyncio.sleep(0)  # lets it begin to wait
            mailbox.put(item("image", 0, 1))
            mailbox.put(item("image", 1, 2))
            kind = (await first).kind + (await mailbox.take()).kind
            second = asyncio.create_task(mailbox.take())
            await asyncio.sleep(0)  # lets it begin to wait
            mailbox.fail(CallError(Reason.DRAINING, "ends"))
            with pytest.raises(CallError):
                await second
        return kind

    assert asyncio.run(play()) == "imageimage"


def test_a_reader_that_gave_up_waiting_loses_nothing() -> None:
    async def play() -> str:
        mailbox = Mailbox(100, coalesce=True)
        waiting = asyncio.create_task(mailbox.take())
        await asyncio.sleep(0)  # lets it begin to wait
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        mailbox.put(item("image", 0, 1))
        return (await mailbox.take()).kind

    assert asyncio.run(play()) == "image"
