"""The device loop: at every boundary the newest wish, then at most one encode and one decode batch, then one evaluation.

1. It never waits for the scheduler between steps; with nothing to do it waits for a wake-up.
2. One thread runs it and owns the device. What needs no device is done elsewhere: preparing, storing, previews, talking.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

from collodion.wire.jobs import Failure, Reason, Stage
from collodion.wire.to_worker import Membership
from collodion.worker.config import WorkerConfig
from collodion.worker.faults import try_rows
from collodion.worker.holdings import Holdings
from collodion.worker.inbox import Inbox
from collodion.worker.lanes import Keeper, Lanes
from collodion.worker.latent import ENDED, Latent
from collodion.worker.news import News
from collodion.worker.outbox import Outbox

_log = logging.getLogger(__name__)


class Previewer(Protocol):
    """Makes previews, elsewhere."""

    def offer(self, latent: Latent) -> None:
        """Makes one of the latent as it is now, if it has the time. Returns at once."""


class Engine:
    """Runs the batch that it was told, until told otherwise."""

    def __init__(
        self,
        config: WorkerConfig,
        holdings: Holdings,
        inbox: Inbox,
        outbox: Outbox,
        keeper: Keeper,
        previewer: Previewer,
        on_failure: Callable[[Reason], None],
    ) -> None:
        self._config = config
        self._holdings = holdings
        self._inbox = inbox
        self._outbox = outbox
        self._previewer = previewer
        self._on_failure = on_failure
        self._news = News(outbox, config.report_interval_s)
        self.lanes = Lanes(outbox, self._news, keeper, self._fail)
        self._condition = threading.Condition()
        self._woken = False
        self._stopping = False
        self._applied: Membership = inbox.newest
        self._batch: list[Latent] = []
        self._states: list[Any] = []
        self._previewed: list[Latent] = []
        self._beginning: list[Latent] = []

    def wake(self) -> None:
        """Something changed that the loop may be waiting for. Any thread."""
        with self._condition:
            self._woken = True
            self._condition.notify()

    def stop(self) -> None:
        """Ends `run` after the batch that is under way. Any thread."""
        self._stopping = True
        self.wake()

    def run(self) -> None:
        """The loop."""
        while not self._stopping:
            if not self.round() and not self.lanes.rest():
                self._rest()

    def round(self) -> bool:
        """One boundary and the evaluation after it; False if there was nothing to do. Device thread only."""
        self._apply_newest()
        worked = [self._encode_once(), self.lanes.decode(self._config.decode_batch), self._step_once()]
        return any(worked)

    def _apply_newest(self) -> None:
        wish = self._inbox.newest
        if wish is self._applied:
            return
        self._applied = wish
        self._holdings.apply(wish)
        self._outbox.held = self._holdings.held
        self._sort()
        self._news.urge()

    def _sort(self) -> None:
        """Splits what is to be brought forward into what has begun and what has not."""
        alive = [latent for latent in self._holdings.running if latent.stage not in ENDED]
        self._beginning = [latent for latent in alive if latent.stage is Stage.ENCODING]
        ready = [latent for latent in alive if latent.stage is Stage.DENOISING]
        ready = [latent for latent in ready if latent.job.key == ready[0].job.key]
        self._batch = ready[: self._config.max_batch]
        self._states = [latent.state for latent in self._batch]
        self._previewed = [latent for latent in self._batch if latent.job.order.preview_interval]

    def _rest(self) -> None:
        self._news.tell(at_rest=True)
        with self._condition:
            while not self._woken:
                self._condition.wait()
            self._woken = False

    def _encode_once(self) -> bool:
        if not self._beginning:
            return False
        jobs = dict.fromkeys(latent.job for latent in self._beginning)
        ready = [job for job in jobs if job.plan and job.conditioning is None and job.failure is None]
        if ready:
            self.lanes.encode([job for job in ready if job.key == ready[0].key][: self._config.encode_batch])
        prepared = any(job.conditioning is not None or job.failure is not None for job in jobs)
        if prepared:
            for latent in self._beginning:
                self._begin(latent)
            self._sort()
        return prepared

    def _begin(self, latent: Latent) -> None:
        job = latent.job
        if job.failure is not None:
            self._fail(latent, job.failure)
        elif job.conditioning is not None:
            try_rows([latent], self._begin_one, self._fail)

    def _begin_one(self, rows: list[Latent]) -> None:
        for latent in rows:
            plan = latent.job.plan
            assert plan is not None
            latent.begin(plan, latent.job.loaded.begin(plan, latent.job.conditioning, latent.seed))
            self._news.urge()

    def _step_once(self) -> bool:
        if not self._batch:
            return False
        batch = self._batch
        if _log.isEnabledFor(logging.DEBUG):
            _log_first_evaluations(batch)
        self.lanes.step(batch, self._states)
        for latent in self._previewed:
            if latent.preview_due:
                self._previewer.offer(latent)
        if any(latent.stage is not Stage.DENOISING for latent in batch):
            self._sort()
        return True

    def _fail(self, latent: Latent, failure: Failure) -> None:
        if latent.stage in ENDED or latent.dropped:
            return
        latent.fail(failure)
        self._sort()
        self._news.urge()
        self._on_failure(failure.reason)
        _log.warning("latent failed", extra={"job": latent.id.job, "image": latent.id.image, "reason": failure.reason})


def _log_first_evaluations(batch: list[Latent]) -> None:
    for latent in batch:
        if latent.evaluations == 0:
            _log.debug("first evaluation", extra={"job": latent.id.job, "image": latent.id.image})
