"""The worker's line to the scheduler: a thread of its own, so that heartbeats go on during the longest model call.

1. It sleeps until a message, the bell of the outbox or the next beat; each time it does little, because it shares the interpreter
   with the device thread.
2. What the socket does not take is not queued: reports are made again from the present, previews are dropped.
3. No peer can end it.
"""

import logging
import math
import threading
import time

import zmq

from collodion.process.running import endpoint
from collodion.wire.sockets import DealerSocket
from collodion.wire.to_scheduler import WorkerLeft, WorkerReport
from collodion.wire.to_worker import Membership, ResidencyWish, SchedulerBeat, ToWorker
from collodion.worker.config import WorkerConfig
from collodion.worker.engine import Engine
from collodion.worker.holdings import Held
from collodion.worker.inbox import Inbox
from collodion.worker.metrics import WorkerMetrics
from collodion.worker.outbox import Outbox, Sample
from collodion.worker.preparing import Preparer
from collodion.worker.reports import Reporter
from collodion.worker.residency import Residents

_log = logging.getLogger(__name__)

_FAREWELL_MS = 500  # for the last report to reach a scheduler that may be busy
_PREVIEWS_AT_ONCE = 64
_TRIES = 3  # to make a report while the device does not pass a boundary


class Link:
    """Receives memberships and wishes for models, sends states, reports and previews."""

    def __init__(
        self,
        config: WorkerConfig,
        incarnation: str,
        inbox: Inbox,
        outbox: Outbox,
        engine: Engine,
        preparer: Preparer,
        models: Residents,
        reporter: Reporter,
        metrics: WorkerMetrics,
    ) -> None:
        self._config = config
        self._incarnation = incarnation
        self._inbox = inbox
        self._outbox = outbox
        self._engine = engine
        self._preparer = preparer
        self._models = models
        self._reporter = reporter
        self._metrics = metrics
        self._leaving = threading.Event()
        self._next_beat = 0.0
        self._heard_at = time.monotonic()
        self._away = False
        self._unsaid = False
        self._samples: list[Sample] = []

    def leave(self) -> None:
        """Says what is still to be said, then that this worker leaves; ends `run`. Any thread."""
        self._leaving.set()
        self._outbox.ring()

    def run(self) -> None:
        """The loop."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket: DealerSocket[ToWorker] = DealerSocket(
            context,
            endpoint(self._config.run_dir, "worker"),
            self._incarnation,
            ToWorker,
            self._metrics.decode_errors.inc,
        )
        poller = zmq.Poller()
        poller.register(self._outbox.fileno(), zmq.POLLIN)
        try:
            while not self._leaving.is_set():
                self._wait(poller, socket)
                self._receive(socket)
                self._beat(socket)
                self._report(socket)
                self._send_previews(socket)
            self._say_farewell(socket)
        finally:
            socket.close()
            context.term()

    def _wait(self, poller: zmq.Poller, socket: DealerSocket[ToWorker]) -> None:
        # What could not be said is said as soon as the scheduler is back, which is when the socket can be written to.
        poller.register(socket.socket, zmq.POLLIN | zmq.POLLOUT if self._unsaid else zmq.POLLIN)
        poller.poll(math.ceil(max(0.0, self._next_beat - time.monotonic()) * 1000))
        self._outbox.answer()

    def _receive(self, socket: DealerSocket[ToWorker]) -> None:
        while (received := socket.receive()) is not None:
            self._handle(received[0])

    def _handle(self, message: ToWorker) -> None:
        self._heard_at = time.monotonic()
        before = self._inbox.newest
        match message:
            case Membership():
                if self._inbox.offer(message):
                    self._preparer.expect(message.orders)
            case ResidencyWish():
                if message.worker == self._incarnation and self._inbox.heard(message.scheduler):
                    self._models.take(message)
            case SchedulerBeat():
                self._inbox.heard(message.scheduler)
        newest = self._inbox.newest
        if newest is not before:
            self._engine.wake()
        if newest.scheduler != before.scheduler:
            what = "another scheduler; what is held is dropped" if before.scheduler else "found the scheduler"
            _log.info(what, extra={"scheduler": newest.scheduler})
            self._next_beat = 0.0

    def _beat(self, socket: DealerSocket[ToWorker]) -> None:
        now = time.monotonic()
        self._note_silence(now)
        if now < self._next_beat and not self._unsaid and not self._reporter.models_are_news:
            return
        held = self._outbox.held
        state = self._reporter.state(held)
        self._unsaid = not socket.send(state)
        if not self._unsaid:
            self._reporter.told(held, state)
        if now >= self._next_beat:
            self._next_beat = now + self._config.beat_s

    def _note_silence(self, now: float) -> None:
        away = now - self._heard_at > self._config.beat_s * self._config.beats_missed
        if away and not self._away:
            _log.warning("the scheduler is silent; running on with its last wish")
        self._away = away
        self._metrics.scheduler_away.set(away)

    def _report(self, socket: DealerSocket[ToWorker]) -> None:
        self._take_samples()
        held = self._outbox.held
        report = self._made(held)
        if report is not None and self._send_report(socket, report):
            self._reporter.told(held, report)
            self._samples.clear()

    def _made(self, held: Held) -> WorkerReport | None:
        for _ in range(_TRIES):
            boundary = self._outbox.boundary
            report = self._reporter.report(held, self._samples, time.monotonic() - boundary)
            if self._outbox.boundary == boundary:
                break  # else the latents may be further than they were at that boundary
        return report

    def _send_report(self, socket: DealerSocket[ToWorker], report: WorkerReport) -> bool:
        sent = socket.send(report)
        self._unsaid = self._unsaid or not sent
        self._metrics.reports.inc(sent)
        return sent

    def _take_samples(self) -> None:
        waiting = self._outbox.samples
        while waiting:
            sample = waiting.popleft()
            self._metrics.observe(sample)
            self._samples.append(sample)
        # A scheduler that is away learns costs again when it is back; old ones are worth nothing by then.
        del self._samples[:-1000]

    def _send_previews(self, socket: DealerSocket[ToWorker]) -> None:
        for _ in range(min(_PREVIEWS_AT_ONCE, self._outbox.previews.qsize())):
            message, picture = self._outbox.previews.get_nowait()
            sent = socket.send(message, picture)
            self._metrics.previews.labels("sent" if sent else "unsent").inc()
        if not self._outbox.previews.empty():
            self._outbox.ring()

    def _say_farewell(self, socket: DealerSocket[ToWorker]) -> None:
        self._report(socket)
        socket.send(WorkerLeft(incarnation=self._incarnation))
        socket.close(_FAREWELL_MS)
