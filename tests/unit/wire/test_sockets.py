"""Typed sockets: messages in, messages out, and any bytes survived."""

import tempfile
import time
from collections.abc import Iterator

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collodion.wire.jobs import LatentId
from collodion.wire.sockets import HIGH_WATER_MARK, DealerSocket, RouterSocket
from collodion.wire.to_scheduler import FromWorker, PreviewMade, WorkerLeft
from collodion.wire.to_worker import SchedulerBeat, ToWorker


class Pair:
    def __init__(self, endpoint: str) -> None:
        self.errors = 0
        self.context = zmq.Context()
        self.router: RouterSocket[FromWorker] = RouterSocket(self.context, endpoint, FromWorker, self.count)
        self.dealer: DealerSocket[ToWorker] = DealerSocket(self.context, endpoint, "w", ToWorker, self.count)

    def count(self) -> None:
        self.errors += 1

    def heard(self) -> tuple[bytes, FromWorker, bytes]:
        message = None
        while message is None:
            assert self.router.socket.poll(5000), "nothing came"
            message = self.router.receive()
        return message

    def say(self, message, opaque: bytes = b"") -> None:
        bound = time.monotonic() + 5
        while not self.dealer.send(message, opaque):
            assert time.monotonic() < bound, "never connected"
            self.dealer.socket.poll(10, zmq.POLLOUT)

    def close(self) -> None:
        self.dealer.close()
        self.router.close()
        self.context.term()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(f"ipc://{folder}/s")
        yield pair
        pair.close()


def test_a_message_and_its_opaque_frame_arrive_as_they_were_sent(pair: Pair) -> None:
    sent = PreviewMade("i", "s", LatentId("job", 3), 7, "image/webp")
    pair.say(sent, b"picture")
    assert pair.heard() == (b"w", sent, b"picture")


def test_what_is_no_message_is_dropped_and_counted_and_the_next_one_heard(pair: Pair) -> None:
    pair.say(WorkerLeft("first"))
    pair.heard()
    for frames in ([b""], [b"\xc1"], [b"x" * 100], [b"\x81\xa4type\xa4what"], [b"", b"", b""]):
        pair.dealer.socket.send_multipart(frames)
    pair.say(WorkerLeft("last"))
    assert pair.heard()[1] == WorkerLeft("last")
    assert pair.errors == 5


@given(frames=st.lists(st.binary(max_size=100), min_size=1, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_frames_are_a_message_or_nothing(pair: Pair, frames: list[bytes]) -> None:
    pair.say(WorkerLeft("before"))
    pair.dealer.socket.send_multipart(frames)
    pair.say(WorkerLeft("after"))
    while pair.heard()[1] != WorkerLeft("after"):
        pass


def test_a_peer_that_nobody_knows_cannot_be_sent_to(pair: Pair) -> None:
    assert pair.router.send(b"nobody", SchedulerBeat("s")) is False


def test_a_peer_that_never_reads_is_noticed_and_blocks_nobody(pair: Pair) -> None:
    pair.say(WorkerLeft("hello"))
    pair.heard()
    payload = b"x" * 100_000
    sent = 0
    while pair.router.send(b"w", SchedulerBeat("s"), payload):
        sent += 1
        assert sent < 10 * HIGH_WATER_MARK
    assert sent >= HIGH_WATER_MARK


def test_without_a_scheduler_nothing_is_kept_for_its_successor() -> None:
    with tempfile.TemporaryDirectory() as folder:
        context = zmq.Context()
        dealer: DealerSocket[ToWorker] = DealerSocket(context, f"ipc://{folder}/s", "w", ToWorker, lambda: None)
        assert dealer.send(WorkerLeft("x")) is False
        dealer.close()
        context.term()
