"""What the core hears, and what it answers with. The loop makes the former and carries out the latter, in order."""

import msgspec

from collodion.scheduler.job import Promise
from collodion.wire.to_frontend import JobView, ToFrontend
from collodion.wire.to_scheduler import FromFrontend, FromWorker
from collodion.wire.to_worker import ToWorker

# ------------------------------------------------------------------ events


class FrontendSaid(msgspec.Struct, frozen=True):
    """A message came from a frontend; `peer` is its socket's identity."""

    peer: bytes
    message: FromFrontend


class WorkerSaid(msgspec.Struct, frozen=True):
    """A message came from a worker; `opaque` is the frame that rode along."""

    peer: bytes
    message: FromWorker
    opaque: bytes = b""


class Ticked(msgspec.Struct, frozen=True):
    """Time passed; nothing else happened."""


class Persisted(msgspec.Struct, frozen=True):
    """The store holds these jobs: they may be acknowledged."""

    jobs: tuple[str, ...]


class SendFailed(msgspec.Struct, frozen=True):
    """This message did not reach a frontend: it is gone, or its queue is full. (For workers nothing has to be known.)"""

    peer: bytes
    message: ToFrontend


Event = FrontendSaid | WorkerSaid | Ticked | Persisted | SendFailed

# ------------------------------------------------------------------ commands


class TellFrontend(msgspec.Struct, frozen=True):
    """Send this to a frontend; answer with `SendFailed` if that is impossible."""

    peer: bytes
    message: ToFrontend
    opaque: bytes = b""


class TellWorker(msgspec.Struct, frozen=True):
    """Send this to a worker; if that is impossible, its next beat brings it up again."""

    peer: bytes
    message: ToWorker


class Persist(msgspec.Struct, frozen=True):
    """Store the job as it stands; answer with `Persisted`. Said at its acceptance and at its end.

    For the metrics: the promise that it was given, and the reason of the warning that it was accepted with.
    """

    view: JobView
    promise: Promise | None = None
    warning: str = ""


class Forget(msgspec.Struct, frozen=True):
    """The job's time is over: delete it from the store."""

    job: str


Command = TellFrontend | TellWorker | Persist | Forget


class Outbox:
    """The commands that one event leads to. They stand even if its handling breaks off: each tells of what was done."""

    def __init__(self) -> None:
        self._commands: list[Command] = []

    def add(self, command: Command) -> None:
        """Appends a command."""
        self._commands.append(command)

    def take(self) -> list[Command]:
        """All of them, in order; none are left."""
        taken, self._commands = self._commands, []
        return taken
