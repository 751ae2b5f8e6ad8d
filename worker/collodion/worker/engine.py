"""The device loop: at every boundary the newest wish, then one batch each of what is to be decoded, encoded and stepped.

1. Who runs is said by the rule of `Membership` (wire/to_worker.py) alone: it never waits for the scheduler between steps, and
   with nothing to do it waits for a wake-up.
2. One thread runs it and owns the device. What needs no device is done elsewhere: preparing, storing, previews, talking.
3. While nothing changes a boundary costs next to nothing: the window is formed anew when a wish was applied, a latent entered or
   left the line, a preparation failed, or a model came or went.
4. Models come and go at a boundary too; reading and building them, which takes long, was done elsewhere before (`loader`).
5. What makes later batches faster is done when there is nothing else to do, a batch's time at once.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from collodion.wire.jobs import Failure, Reason
from collodion.wire.to_worker import Membership
from collodion.worker.config import WorkerConfig
from collodion.worker.faults import try_rows
from collodion.worker.holdings import Holdings
from collodion.worker.inbox import Inbox
from collodion.worker.lanes import Keeper, Lanes
from collodion.worker.latent import ENDED, Latent, WorkerJob
from collodion.worker.news import News
from collodion.worker.outbox import Outbox
from collodion.worker.parking import Parking
from collodion.worker.residency import Residents
from collodion.worker.window import Window

_log = logging.getLogger(__name__)


class Previewer(Protocol):
    """Makes previews, elsewhere."""

    def offer(self, latent: Latent) -> None:
        """Makes one of the latent as it is now, if it has the time. Returns at once."""


class Engine:
    """Runs the batch that it was told, until told otherwise. `prepare`: elsewhere, for a job whose model has come."""

    def __init__(
        self,
        config: WorkerConfig,
        models: Residents,
        holdings: Holdings,
        inbox: Inbox,
        outbox: Outbox,
        keeper: Keeper,
        previewer: Previewer,
        prepare: Callable[[WorkerJob], object],
        on_failure: Callable[[Reason], None],
    ) -> None:
        self._config = config
        self._models = models
        self._prepare = prepare
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
        self._coming: list[Membership] = []
        self._window = Window(config.max_batch)
        self._parking = Parking(config.parked_mib << 20, self._fail)
        self._changed = self._applied = False

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
            if not self.round() and not self.lanes.rest() and not self._tidy():
                self._rest()

    def round(self) -> bool:
        """One boundary and the evaluation after it; False if there was nothing to do. Device thread only."""
        self._outbox.boundary = time.monotonic()
        self._look()
        decoded = self.lanes.decode(self._config.decode_batch)
        if self._changed:
            self._form_window()
        encoded = self._encode_once()
        return self._step_once() or encoded or decoded or self._hurry()

    def _look(self) -> None:
        """What was wished for, and what could not be prepared, since the last boundary."""
        woken = self._woken
        if woken:
            self._woken = False  # before looking: what comes from now on wakes again
            self._coming = [wish for wish in self._inbox.wishes if self._holdings.held.is_before(wish)]
        while self._coming and self._holdings.reached(self._coming[0]):
            self._apply(self._coming.pop(0))
        if woken:
            self._fail_refused()
        if (woken or self._applied) and self._models.unsettled:
            self._settle_models()
        self._applied = False

    def _hurry(self) -> bool:
        """With nobody to bring forward no boundary would ever come: the next wish holds at once."""
        if not self._coming or self._window.beginning:
            return False
        self._apply(self._coming.pop(0))
        return True

    def _apply(self, wish: Membership) -> None:
        self._holdings.apply(wish)
        self._outbox.held = self._holdings.held
        self._fail_refused()
        self._changed = self._applied = True
        self._news.urge()

    def _settle_models(self) -> None:
        """Lets in the models that were loaded, and out those that are not wanted any more."""
        arrived, left = self._models.turn({job.model for job in self._holdings.jobs})
        if left:
            self.lanes.rest()  # the last batches of theirs may still be under way
            self._models.release(left)
        for job in self._holdings.jobs:
            if job.model in arrived and job.pipeline is None:
                self._prepare(job)
        self._changed = self._changed or bool(arrived or left)

    def _tidy(self) -> bool:
        self._news.tell(at_rest=True)  # before: it takes as long as some batches, and there may be more of it
        return self._models.tidy()

    def _rest(self) -> None:
        with self._condition:
            while not self._woken:
                self._condition.wait()

    # ------------------------------------------------------------------ window

    def _form_window(self) -> None:
        self._changed = False
        entered, left = self._window.form([one for one in self._holdings.line if self._models.has(one.job.model)])
        self._parking.change(entered, left, self._holdings.held.latents)
        self._window.gather()
        self._news.urge()

    def _fail_refused(self) -> None:
        for latent in self._holdings.line:
            if latent.job.failure is not None:
                self._fail(latent, latent.job.failure)

    # ------------------------------------------------------------------ lanes

    def _encode_once(self) -> bool:
        beginning = self._window.beginning
        if not beginning:
            return False
        jobs = dict.fromkeys(latent.job for latent in beginning)
        ready = [job for job in jobs if job.plan and job.conditioning is None and job.failure is None]
        if ready:
            self.lanes.encode(ready[: self._config.encode_batch])
            self._fail_refused()
        encoded = [latent for latent in beginning if latent.to_go and latent.job.conditioning is not None]
        for latent in encoded:
            try_rows([latent], self._begin_one, self._fail)
        if encoded:
            self._window.gather()
        return bool(ready or encoded)

    def _begin_one(self, rows: list[Latent]) -> None:
        for latent in rows:
            plan = latent.job.plan
            assert plan is not None
            latent.begin(plan, latent.job.loaded.begin(plan, latent.job.conditioning, latent.seed))
            self._news.urge()

    def _step_once(self) -> bool:
        if self._changed:
            self._window.gather()  # without those that were lost since it was formed
        batch = self._window.batch
        if not batch.latents:
            return False
        if _log.isEnabledFor(logging.DEBUG):
            _log_first_evaluations(batch.latents)
        finished = len(self.lanes.finished)
        self.lanes.step(batch)
        for latent in self._window.previewed:
            if latent.preview_due:
                self._previewer.offer(latent)
        self._changed = self._changed or len(self.lanes.finished) != finished
        return True

    def _fail(self, latent: Latent, failure: Failure) -> None:
        if latent.stage in ENDED or latent.dropped:
            return
        latent.fail(failure)
        self._changed = True
        self._news.urge()
        self._on_failure(failure.reason)
        _log.warning("latent failed", extra={"job": latent.id.job, "image": latent.id.image, "reason": failure.reason})


def _log_first_evaluations(batch: list[Latent]) -> None:
    for latent in batch:
        if latent.evaluations == 0:
            _log.debug("first evaluation", extra={"job": latent.id.job, "image": latent.id.image})
