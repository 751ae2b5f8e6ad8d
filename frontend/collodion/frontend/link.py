"""The one socket to the scheduler: calls go out, answers and events come in, beats go both ways.

1. The socket is registered with the loop itself. ZeroMQ's descriptor is edge-triggered: it is drained until nothing is left, and looked at
   again after every send, which may have swallowed the edge.
2. The scheduler is reachable from its first beat on and until it is silent for `beats_missed` beats. A new incarnation knows nothing of
   our calls: they end.
3. A call that cannot be handed over ends at once; one that is not answered in `answer_timeout_s` ends then.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable

import zmq

from collodion.frontend.calls import Answer, Calls, Watch
from collodion.frontend.config import Config
from collodion.frontend.errors import CallError, unreachable
from collodion.frontend.metrics import Metrics
from collodion.process.running import endpoint
from collodion.wire.jobs import Reason
from collodion.wire.sockets import DealerSocket
from collodion.wire.to_frontend import Catalogue, JobAnswer, JobEvent, JobsAnswer, ModelAnswer, Refused, ToFrontend
from collodion.wire.to_scheduler import FromFrontend, FrontendBeat, LeaveJob
from collodion.wire.to_worker import SchedulerBeat

_AT_ONCE = 200  # messages handled before streams get their turn to write
_log = logging.getLogger(__name__)


class Link:
    """Speaks to the scheduler for all RPCs, on the running loop. `on_reachable` hears when that changes."""

    def __init__(self, config: Config, metrics: Metrics, on_reachable: Callable[[bool], None]) -> None:
        self.catalogue: Catalogue | None = None
        self._config = config
        self._metrics = metrics
        self._on_reachable = on_reachable
        self._calls = Calls(metrics, config.mailbox_events, config.coalesce)
        self._incarnation = uuid.uuid4().hex
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: DealerSocket[ToFrontend] = DealerSocket(
            self._context,
            endpoint(config.run_dir, "frontend"),
            self._incarnation,
            ToFrontend,
            metrics.decode_errors.inc,
        )
        self._scheduler = ""  # its incarnation, once it was heard
        self._heard = 0.0
        self._reachable = False
        self._drain_planned = False
        self._loop.add_reader(self._socket.socket.FD, self._drain)
        self._timer: asyncio.Handle = self._loop.call_soon(self._beat)

    def close(self) -> None:
        """Ends every call and closes the socket, giving what was said last a moment to leave."""
        self._calls.fail_all(CallError(Reason.DRAINING, "the frontend ends"))
        self._timer.cancel()
        self._loop.remove_reader(self._socket.socket.FD)
        self._socket.close(linger_ms=200)
        self._context.term()

    def known(self) -> Catalogue:
        """What can be asked for. Raises CallError while the scheduler is not reachable."""
        if not self._reachable or self.catalogue is None:
            raise unreachable("the scheduler cannot be reached")
        return self.catalogue

    async def ask(self, resource: tuple[str, str], question: Callable[[int], FromFrontend]) -> Answer:
        """Asks for one answer; `question` is given the call's number. Raises CallError."""
        asked = self._calls.ask(resource)
        try:
            self._hand_over(question(asked.call))
            return await asyncio.wait_for(asked.answer, self._config.answer_timeout_s)
        except TimeoutError:
            raise self._no_answer() from None
        finally:
            self._calls.forget(asked.call)

    def watch(self, resource: tuple[str, str], order: Callable[[int], FromFrontend]) -> Watch:
        """Opens a watch by `order`, which is given the call's number; it MUST be left. Raises CallError."""
        watch = self._calls.watch(resource)
        try:
            self._hand_over(order(watch.call))
        except CallError:
            self._calls.forget(watch.call)
            raise
        watch.timeout = self._loop.call_later(
            self._config.answer_timeout_s, lambda: watch.mailbox.fail(self._no_answer())
        )
        return watch

    def leave(self, watch: Watch) -> None:
        """The client is gone, or has heard the end. If LeaveJob cannot be sent, the next beat that names the call no more says the same."""
        if self._calls.forget(watch.call):
            _log.info("hung up", extra={"job": watch.job, "call": watch.call})
            self._send(LeaveJob(watch.call))

    def _hand_over(self, message: FromFrontend) -> None:
        if not self._reachable or not self._send(message):
            raise unreachable("the scheduler cannot be reached")

    def _no_answer(self) -> CallError:
        return unreachable(f"the scheduler did not answer within {self._config.answer_timeout_s:g} s")

    def _send(self, message: FromFrontend) -> bool:
        sent = self._socket.send(message)
        self._look_again()
        return sent

    def _look_again(self) -> None:
        if not self._drain_planned and self._socket.socket.poll(0, zmq.POLLIN):
            self._drain_planned = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._drain_planned = False
        if self._socket.socket.closed:
            return
        for _ in range(_AT_ONCE):
            received = self._socket.receive()
            if received is None:
                return
            try:
                self._handle(*received)
            except Exception:  # the edge of the loop: one bad message must not end it
                _log.exception("a message of the scheduler's could not be handled")
        self._look_again()

    def _handle(self, message: ToFrontend, opaque: bytes) -> None:
        self._heard = self._loop.time()
        match message:
            case JobEvent():
                self._calls.event(message, opaque)
            case JobAnswer() | JobsAnswer() | ModelAnswer():
                self._calls.answer(message)
            case Refused():
                self._calls.refuse(message)
            case Catalogue():
                self.catalogue = message
            case SchedulerBeat():
                self._on_beat(message.scheduler)

    def _on_beat(self, scheduler: str) -> None:
        if scheduler != self._scheduler:
            if self._scheduler:
                _log.warning("the scheduler was restarted", extra={"scheduler": scheduler})
                self._calls.fail_all(
                    CallError(Reason.SCHEDULER_RESTARTED, "the scheduler was restarted; its jobs are lost")
                )
            self._scheduler = scheduler
            self._say_state()
        self._set_reachable(True)

    def _beat(self) -> None:
        self._drain()  # this loop may have been the one that was silent
        if self._reachable and self._loop.time() - self._heard > self._config.beat_s * self._config.beats_missed:
            _log.warning("the scheduler is silent", extra={"scheduler": self._scheduler})
            self._set_reachable(False)
            self._calls.fail_all(unreachable("the scheduler is silent"))
        said = self._say_state()
        # While it is away, its return is worth hearing of early: it speaks only to those that it has heard.
        pause = self._config.beat_s if said and self._reachable else self._config.beat_s / 10
        self._timer = self._loop.call_later(pause, self._beat)

    def _say_state(self) -> bool:
        return self._send(FrontendBeat(self._incarnation, self._calls.watching()))

    def _set_reachable(self, reachable: bool) -> None:
        if reachable != self._reachable:
            self._reachable = reachable
            self._metrics.scheduler_up.set(reachable)
            self._on_reachable(reachable)
