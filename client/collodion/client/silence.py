"""When a stream has been silent for too long. Pure: takes the time as an argument."""

from enum import Enum

from collodion.client.channel import Connection
from collodion.client.errors import ServerUnavailable, TimedOut


class Verdict(Enum):
    """What to do about a stream now."""

    WAIT = "wait"
    ASK = "ask"
    GIVE_UP = "give up"


class Silence:
    """The silence on one stream, in seconds of a monotonic clock. `sending_s` is what its request may take to be sent."""

    def __init__(self, connection: Connection, now: float, sending_s: float = 0.0) -> None:
        self._connection = connection
        self._sending_s = sending_s
        self._since = now
        self._first = True

    def heard(self, now: float) -> bool:
        """Something came. Returns whether the next verdict may be due earlier than it was: so after the first word."""
        was_first = self._first
        self._since, self._first = now, False
        return was_first

    def asked(self, now: float) -> None:
        """The server was asked, and answered."""
        self._since = now

    def left_s(self, now: float) -> float | None:
        """How long to wait before a verdict other than WAIT; None: for ever."""
        limit = self._connection.timeout_s if self._first else self._connection.silence_s
        more = self._sending_s if self._first else 0.0
        return None if limit is None else max(0.0, self._since + limit + more - now)

    def verdict(self, now: float) -> Verdict:
        """What to do now."""
        if self.left_s(now) != 0.0:
            return Verdict.WAIT
        return Verdict.GIVE_UP if self._first else Verdict.ASK

    def error(self) -> ServerUnavailable:
        """Why the stream was given up."""
        server = self._connection.server
        if self._first:
            return TimedOut(f"the server at {server} did not answer in time", reason="TIMED_OUT")
        return ServerUnavailable(f"the server at {server} has fallen silent", reason="SILENT")
