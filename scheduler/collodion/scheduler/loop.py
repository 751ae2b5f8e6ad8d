"""The loop: sockets, time, signals and threads around the core.

1. It waits for sockets and timers, hands what came to the core, and carries out what the core commands, in order.
2. It never waits for a peer. A send that fails is an event like any other; once one failed, what the same event had for that peer
   fails too, so that no event overtakes another.
3. Each socket gives at most so many messages a turn, so that a flood on one does not starve the other, nor time.
4. The one broad except is here: a message whose handling breaks off is logged and counted, and the loop goes on.
5. One clock: the Unix time at the start plus what the monotonic clock says has passed. It never jumps.
"""

import contextlib
import logging
import secrets
import signal
import socket
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator

import zmq

from collodion.process.running import endpoint
from collodion.scheduler.config import SchedulerConfig
from collodion.scheduler.core import Core
from collodion.scheduler.events import (
    Command,
    Event,
    Forget,
    FrontendSaid,
    Persist,
    Persisted,
    SendFailed,
    TellFrontend,
    Ticked,
    WorkerSaid,
)
from collodion.scheduler.ids import JobIds
from collodion.scheduler.journal import JobStore
from collodion.scheduler.metrics import Metrics
from collodion.scheduler.profiles import prime
from collodion.wire.sockets import RouterSocket
from collodion.wire.to_scheduler import FromFrontend, FromWorker

_MESSAGES_A_TURN = 256

_log = logging.getLogger(__name__)


class SteadyClock:
    """Unix seconds that never jump, whatever is done to the machine's clock after the start."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> float:
        """Now."""
        return self._offset + time.monotonic()


class Loop:
    """One scheduler process."""

    def __init__(self, config: SchedulerConfig, store: JobStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = SteadyClock()
        self._core = Core(config, uuid.uuid4().hex, JobIds(secrets.randbits), self._clock())
        prime(self._core.costs, config.profiles)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._frontends: RouterSocket[FromFrontend] = RouterSocket(
            self._context,
            endpoint(config.run_dir, "frontend"),
            FromFrontend,
            metrics.decode_errors.labels("frontend").inc,
        )
        self._workers: RouterSocket[FromWorker] = RouterSocket(
            self._context, endpoint(config.run_dir, "worker"), FromWorker, metrics.decode_errors.labels("worker").inc
        )
        self._sample_at = 0.0

    def run(self, stop: socket.socket) -> None:
        """Serves until a byte comes on `stop`."""
        poller = zmq.Poller()
        for source in (self._frontends.socket, self._workers.socket, stop):
            poller.register(source, zmq.POLLIN)
        while stop.fileno() not in dict(poller.poll(self._patience_ms())):
            self.turn()

    def turn(self) -> None:
        """Handles what has come, and what has fallen due."""
        for event in self._came():
            self._handle(event)
        if self._core.next_wake() <= self._clock():
            self._handle(Ticked())
        if saved := self._store.saved():
            self._handle(Persisted(saved))
        if self._sample_at <= self._clock():
            self._metrics.sample(self._core)
            self._sample_at = self._clock() + 1.0

    def uploads(self) -> set[str]:
        """Keys of the uploads that unfinished jobs begin from. May be called on any thread."""
        return self._core.book.uploads()

    def close(self) -> None:
        """Closes the sockets; what was not sent is dropped."""
        self._frontends.close()
        self._workers.close()
        self._context.term()

    def _came(self) -> Iterator[Event]:
        for _ in range(_MESSAGES_A_TURN):
            said = self._workers.receive()
            if said is None:
                break
            yield WorkerSaid(*said)
        for _ in range(_MESSAGES_A_TURN):
            asked = self._frontends.receive()
            if asked is None:
                break
            yield FrontendSaid(asked[0], asked[1])

    def _handle(self, event: Event) -> None:
        events = deque([event])
        while events:
            event = events.popleft()
            if isinstance(event, WorkerSaid | FrontendSaid):
                self._metrics.received.labels(type(event.message).__name__).inc()
            events.extend(self._carry_out(self._commands(event)))
            if saved := self._store.saved():
                events.append(Persisted(saved))

    def _commands(self, event: Event) -> list[Command]:
        began = time.perf_counter()
        try:
            return self._core.handle(event, self._clock())
        except Exception:
            _log.exception("could not handle an event", extra={"event": type(event).__name__})
            self._metrics.handler_errors.inc()
            return self._core.mend(event, self._clock())
        finally:
            self._metrics.handling.observe(time.perf_counter() - began)

    def _carry_out(self, commands: Iterable[Command]) -> list[SendFailed]:
        failed: list[SendFailed] = []
        blocked: set[bytes] = set()
        for command in commands:
            if isinstance(command, Persist):
                self._store.save(command.view)
            elif isinstance(command, Forget):
                self._store.delete(command.job)
            elif isinstance(command, TellFrontend):
                if command.peer in blocked or not self._frontends.send(command.peer, command.message, command.opaque):
                    blocked.add(command.peer)
                    failed.append(SendFailed(command.peer, command.message))
                    self._metrics.send_failures.labels("frontend").inc()
                    continue
            elif not self._workers.send(command.peer, command.message):
                self._metrics.send_failures.labels("worker").inc()
                continue
            self._metrics.done(command)
        return failed

    def _patience_ms(self) -> int:
        # Rounded up: waking a fraction of a millisecond early would spin.
        return max(0, int((self._core.next_wake() - self._clock()) * 1000) + 1)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[socket.socket]:
    """While inside, SIGTERM and SIGINT only make the returned socket readable."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    handled = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: None) for number in handled}
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()
