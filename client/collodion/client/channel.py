"""How a server is reached: its address, the channel's options, who we say we are, how long we wait."""

import ipaddress
from dataclasses import dataclass, field

from google.protobuf.message import Message

from collodion.client.errors import InvalidRequest
from collodion.client.retries import REATTACHING, RetryPolicy

DEFAULT_SERVER = "127.0.0.1:50051"

# Pictures come in pieces of 1 MiB at most; the rest is room for a page of 1,000 jobs with long prompts.
_LARGEST_MESSAGE_BYTES = 64 * 1024 * 1024
_SLOWEST_BYTES_A_SECOND = 256 * 1024


@dataclass(frozen=True)
class Connection:
    """How to reach a server, and how patient to be.

    `timeout_s` is for every answer: that of a call, and the first event of a stream; None waits for ever. A request gets a
    second more for each 256 KiB of it, to be sent: it may hold pictures. A stream has no limit as a whole. If nothing is
    heard on one for `silence_s`, the server is asked how the job stands: while it answers, waiting goes on (a job may be
    queued for hours); if it does not answer, the stream counts as broken. None never asks.

    Raises:
        InvalidRequest: the tenant is nothing that can be sent as metadata.
    """

    server: str = DEFAULT_SERVER
    tenant: str = ""
    timeout_s: float | None = 10.0
    silence_s: float | None = 30.0
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    reattaching: RetryPolicy = REATTACHING

    def __post_init__(self) -> None:
        if not (self.tenant.isascii() and self.tenant.isprintable()):
            raise InvalidRequest(f"the tenant {self.tenant!r} is no plain text", reason="INVALID_FIELDS")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes along with every call."""
        return (("x-collodion-tenant", self.tenant),) if self.tenant else ()

    def answer_s(self, request: Message) -> float | None:
        """How long to wait for the answer to `request`, in seconds; None: for ever."""
        return None if self.timeout_s is None else self.timeout_s + sending_s(request)

    @property
    def options(self) -> list[tuple[str, int]]:
        """The channel's options."""
        options = [
            ("grpc.max_receive_message_length", _LARGEST_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _LARGEST_MESSAGE_BYTES),
            # For a peer whose machine is gone. Later than `silence_s`, whose question keeps a quiet connection in use:
            # so pings are rare, and a proxy that punishes frequent ones has no reason to hang up.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            # gRPC's own pause after a refused connection grows to two minutes, by which a restarted server is noticed.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ]
        # A proxy named in the environment cannot reach this machine's loopback address.
        return [*options, ("grpc.enable_http_proxy", 0)] if _is_loopback(self.server) else options


def sending_s(request: Message) -> float:
    """Seconds that sending `request` may take."""
    return request.ByteSize() / _SLOWEST_BYTES_A_SECOND


def _is_loopback(server: str) -> bool:
    host = server.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or server.startswith("unix:")
