"""Typed ZeroMQ sockets: what goes in and comes out are messages, and neither direction ever blocks or raises for a peer's fault.

1. A send that would block, or has no such peer, returns False: an event to handle, not an error.
2. Bytes that are not a message of the expected union are dropped, counted, and never end a loop.
3. Liveness is not asked of ZeroMQ; the peers beat for themselves.
"""

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec
import zmq

Incoming = TypeVar("Incoming")

HIGH_WATER_MARK = 2_000  # messages a peer; a preview is a few kB, so a stalled peer costs a few MB at most
_SKIPPED_AT_ONCE = 100  # a flood of garbage must not hold the receiver's loop
MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # a longer frame closes that peer's connection instead of filling our memory

_encoder = msgspec.msgpack.Encoder()
_log = logging.getLogger(__name__)


def _configure(socket: "zmq.Socket[bytes]") -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)


class _Decoding(Generic[Incoming]):
    """Decodes one union of messages and counts what is none of it."""

    def __init__(self, incoming: Any, on_decode_error: Callable[[], None]) -> None:
        self._decoder: msgspec.msgpack.Decoder[Incoming] = msgspec.msgpack.Decoder(incoming)
        self._on_decode_error = on_decode_error

    def decode(self, frame: bytes) -> Incoming | None:
        try:
            return self._decoder.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._on_decode_error()
            _log.warning("dropped a message that cannot be decoded", extra={"error": str(error), "bytes": len(frame)})
            return None


class RouterSocket(Generic[Incoming]):
    """The scheduler's side: many peers, each known by its identity."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        endpoint: str,
        incoming: Any,
        on_decode_error: Callable[[], None],
    ) -> None:
        self.socket = context.socket(zmq.ROUTER)
        _configure(self.socket)
        # Without it a ROUTER silently drops what it cannot send.
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # A restarted peer that takes its old identity again must reach us, not be shut out by its own ghost.
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.socket.bind(endpoint)
        self._decoding: _Decoding[Incoming] = _Decoding(incoming, on_decode_error)

    def receive(self) -> tuple[bytes, Incoming, bytes] | None:
        """The next message as (peer, message, opaque frame or b""); None if there is none. Skips garbage, but not for ever."""
        for _ in range(_SKIPPED_AT_ONCE):
            try:
                peer, *frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return None
            message = self._decoding.decode(frames[0] if frames else b"")
            if message is not None:
                return peer, message, frames[1] if len(frames) > 1 else b""
        return None

    def send(self, peer: bytes, message: msgspec.Struct, opaque: bytes = b"") -> bool:
        """Whether the message was handed to ZeroMQ; False if the peer is gone or its queue is full."""
        frames = [peer, _encoder.encode(message), opaque] if opaque else [peer, _encoder.encode(message)]
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def close(self) -> None:
        """Closes at once; what was not sent is dropped."""
        self.socket.close(0)


class DealerSocket(Generic[Incoming]):
    """A worker's or a frontend's side: one peer, the scheduler; ZeroMQ reconnects by itself."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        endpoint: str,
        identity: str,
        incoming: Any,
        on_decode_error: Callable[[], None],
    ) -> None:
        self.socket = context.socket(zmq.DEALER)
        _configure(self.socket)
        self.socket.setsockopt(zmq.IDENTITY, identity.encode())
        # What is said while the scheduler is away would reach its successor, which knows nothing of it.
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        self.socket.connect(endpoint)
        self._decoding: _Decoding[Incoming] = _Decoding(incoming, on_decode_error)

    def receive(self) -> tuple[Incoming, bytes] | None:
        """The next message as (message, opaque frame or b""); None if there is none. Skips what cannot be decoded."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return None
            message = self._decoding.decode(frames[0])
            if message is not None:
                return message, frames[1] if len(frames) > 1 else b""

    def send(self, message: msgspec.Struct, opaque: bytes = b"") -> bool:
        """Whether the message was handed to ZeroMQ; False if the scheduler is away or does not keep up."""
        frames = [_encoder.encode(message), opaque] if opaque else [_encoder.encode(message)]
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self, linger_ms: int = 0) -> None:
        """Closes; what was not sent within `linger_ms` is dropped."""
        self.socket.close(linger_ms)
