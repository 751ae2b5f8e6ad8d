"""What the core hears, and what it answers with. The loop makes the former and carries out the latter, in order."""

from dataclasses import dataclass

from collodion.scheduler.job import Promise
from collodion.wire.to_frontend import JobView, ToFrontend
from collodion.wire.to_scheduler import FromFrontend, FromWorker
from collodion.wire.to_worker import ToWorker

# ------------------------------------------------------------------ events


@dataclass(frozen=True, slots=True)
class FrontendSaid:
    """A message came from a frontend; `peer` is its socket's identity."""

    peer: bytes
    message: FromFrontend


@dataclass(frozen=True, slots=True)
class WorkerSaid:
    """A message came from a worker; `opaque` is the frame that rode along."""

    peer: bytes
    message: FromWorker
    opaque: bytes = b""


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time passed; nothing else happened."""


@dataclass(frozen=True, slots=True)
class Persisted:
    """The store holds these jobs: they may be acknowledged."""

    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SendFailed:
    """This message did not reach a frontend: it is gone, or its queue is full. (For workers nothing has to be known.)"""

    peer: bytes
    message: ToFrontend


Event = FrontendSaid | WorkerSaid | Ticked | Persisted | SendFailed

# ------------------------------------------------------------------ commands


@dataclass(frozen=True, slots=True)
class TellFrontend:
    """Send this to a frontend; answer with `SendFailed` if that is impossible."""

    peer: bytes
    message: ToFrontend
    opaque: bytes = b""


@dataclass(frozen=True, slots=True)
class TellWorker:
    """Send this to a worker; if that is impossible, its next beat brings it up again."""

    peer: bytes
    message: ToWorker


@dataclass(frozen=True, slots=True)
class Persist:
    """Store the job as it stands; answer with `Persisted`. Said at its acceptance and at its end.

    For the metrics: the promise that it was given, and the reason of the warning that it was accepted with.
    """

    view: JobView
    promise: Promise | None = None
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Forget:
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
