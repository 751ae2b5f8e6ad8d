"""The device loop: at every boundary the newest wish, then at most one encode and one decode batch, then one evaluation.

1. It never waits for the scheduler between steps; with nothing to do it waits for a wake-up.
2. One thread runs it and owns the device. What needs no device is done elsewhere: preparing, storing, previews, talking.
3. A batch that raises is tried again row by row, so that only the guilty latent fails.
4. On a device that works asynchronously up to `run_ahead` batches are under way; the oldest is waited for, never the newest.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from collodion.wire.jobs import Failure, Reason, Stage
from collodion.wire.to_worker import Membership
from collodion.worker.config import WorkerConfig
from collodion.worker.faults import Row, non_finite, try_rows
from collodion.worker.holdings import Holdings
from collodion.worker.inbox import Inbox
from collodion.worker.latent import ENDED, Latent, WorkerJob
from collodion.worker.outbox import Outbox, Sample
from collodion.worker.pipeline import AnyPipeline, Decoded, Picture, Stepped
from collodion.worker.timing import Span

_log = logging.getLogger(__name__)
_Row = TypeVar("_Row", bound=Row)


class Keeper(Protocol):
    """Stores finished pictures, elsewhere; then finishes or fails the latent."""

    def keep(self, latent: Latent, picture: Picture) -> None:
        """Returns at once."""


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
        self._keeper = keeper
        self._previewer = previewer
        self._on_failure = on_failure
        self._condition = threading.Condition()
        self._woken = False
        self._stopping = False
        self._applied: Membership = inbox.newest
        self._batch: list[Latent] = []
        self._states: list[Any] = []
        self._previewed: list[Latent] = []
        self._beginning: list[Latent] = []
        self._finished: list[Latent] = []
        self._under_way: deque[Callable[[], None]] = deque()
        self._last_step: Span | None = None
        self._report_due = 0.0
        self._news = self._urgent = False

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
            if not self.round():
                self._rest()

    def round(self) -> bool:
        """One boundary and the evaluation after it; False if there was nothing to do. Device thread only."""
        self._apply_newest()
        worked = [self._encode_once(), self._decode_once(), self._step_once()]
        return any(worked)

    # ------------------------------------------------------------------ boundary

    def _apply_newest(self) -> None:
        wish = self._inbox.newest
        if wish is self._applied:
            return
        self._applied = wish
        self._holdings.apply(wish)
        self._outbox.held = self._holdings.held
        held = set(map(id, self._holdings.held.latents))
        self._finished = [latent for latent in self._finished if id(latent) in held]
        self._sort()
        self._urgent = True

    def _sort(self) -> None:
        """Splits what is to be brought forward into what has begun and what has not."""
        alive = [latent for latent in self._holdings.running if latent.stage not in ENDED]
        self._beginning = [latent for latent in alive if latent.stage is Stage.ENCODING]
        ready = [latent for latent in alive if latent.stage is Stage.DENOISING]
        ready = [latent for latent in ready if latent.job.key == ready[0].job.key]
        self._batch = ready[: self._config.max_batch]
        self._states = [latent.state for latent in self._batch]
        self._previewed = [latent for latent in self._batch if latent.job.order.preview_interval]

    def _report(self) -> None:
        now = time.monotonic()
        if self._urgent or (self._news and now >= self._report_due):
            self._urgent = self._news = False
            self._report_due = now + self._config.report_interval_s
            self._outbox.ring()

    def _rest(self) -> None:
        self._last_step = None
        if self._under_way:
            self._settle(0)
            return
        self._urgent = self._urgent or self._news
        self._report()
        with self._condition:
            while not self._woken:
                self._condition.wait()
            self._woken = False

    # ------------------------------------------------------------------ lanes

    def _encode_once(self) -> bool:
        if not self._beginning:
            return False
        jobs = dict.fromkeys(latent.job for latent in self._beginning)
        ready = [job for job in jobs if job.plan and job.conditioning is None and job.failure is None]
        if ready:
            ready = [job for job in ready if job.key == ready[0].key][: self._config.encode_batch]
            self._last_step = None
            _log.debug("encoding", extra={"jobs": [job.order.job for job in ready]})
            self._lane(ready, ready[0], self._encode, self._fail_job)
            _log.debug("encoded", extra={"jobs": [job.order.job for job in ready]})
        prepared = any(job.conditioning is not None or job.failure is not None for job in jobs)
        if prepared:
            for latent in self._beginning:
                self._begin(latent)
            self._sort()
        return prepared

    def _encode(self, jobs: list[WorkerJob]) -> None:
        encoded = _pipeline(jobs[0]).encode([job.plan for job in jobs])
        for job, conditioning in zip(jobs, encoded.conditioning, strict=True):
            job.conditioning = conditioning
        self._under_way.append(lambda: self._sample("encode", jobs[0], len(jobs), encoded.span.wait()))

    def _begin(self, latent: Latent) -> None:
        job = latent.job
        if job.failure is not None:
            self._fail(latent, job.failure)
        elif job.plan is not None and job.conditioning is not None:
            try_rows([latent], self._begin_one, self._fail)

    def _begin_one(self, rows: list[Latent]) -> None:
        for latent in rows:
            plan = latent.job.plan
            assert plan is not None
            latent.begin(plan, _pipeline(latent.job).begin(plan, latent.job.conditioning, latent.seed))
            self._urgent = True

    def _decode_once(self) -> bool:
        if not self._finished:
            return False
        key = self._finished[0].job.key
        rows = [latent for latent in self._finished if latent.job.key == key][: self._config.decode_batch]
        chosen = set(map(id, rows))
        self._finished = [latent for latent in self._finished if id(latent) not in chosen]
        rows = [latent for latent in rows if latent.stage is Stage.DECODING]  # the last evaluation may have gone wrong
        if rows:
            self._last_step = None
            self._lane(rows, rows[0].job, self._decode, self._fail)
        return True

    def _decode(self, rows: list[Latent]) -> None:
        decoded = _pipeline(rows[0].job).decode([latent.state for latent in rows])
        self._under_way.append(lambda: self._decoded(rows, decoded))

    def _decoded(self, rows: list[Latent], decoded: Decoded) -> None:
        self._sample("decode", rows[0].job, len(rows), decoded.span.wait())
        for latent, picture in zip(rows, decoded.pictures(), strict=True):
            latent.state = None
            if picture is None:
                self._fail(latent, non_finite(latent))
            elif latent.stage is Stage.DECODING and not latent.dropped:
                self._keeper.keep(latent, picture)

    def _step_once(self) -> bool:
        if not self._batch:
            return False
        batch = self._batch
        if _log.isEnabledFor(logging.DEBUG):
            _log_first_evaluations(batch)
        self._lane(batch, batch[0].job, self._step, self._fail)
        for latent in self._previewed:
            self._offer_preview(latent)
        if any(latent.stage is not Stage.DENOISING for latent in batch):
            self._sort()
        return True

    def _step(self, rows: list[Latent]) -> None:
        states = self._states if rows is self._batch else [latent.state for latent in rows]
        stepped = _pipeline(rows[0].job).step(states)
        for latent in rows:
            if latent.advance():
                self._finish_steps(latent)
        self._news = True
        previous, self._last_step = self._last_step, stepped.span
        self._under_way.append(lambda: self._stepped(rows, stepped, previous))

    def _stepped(self, rows: list[Latent], stepped: Stepped, previous: Span | None) -> None:
        seconds = stepped.span.wait()
        gap_s = None if previous is None else stepped.span.gap_after(previous)
        self._sample("step", rows[0].job, len(rows), seconds, gap_s)
        for row in stepped.non_finite():
            self._fail(rows[row], non_finite(rows[row]))
            self._sort()

    def _finish_steps(self, latent: Latent) -> None:
        latent.stage = Stage.DECODING
        self._finished.append(latent)
        self._urgent = True

    def _offer_preview(self, latent: Latent) -> None:
        if latent.stage is not Stage.DENOISING or not latent.evaluations:
            return
        done_before = latent.course[latent.evaluations - 1]
        if latent.steps != done_before and latent.steps % latent.job.order.preview_interval == 0:
            self._previewer.offer(latent)

    # ------------------------------------------------------------------ what is under way

    def _lane(
        self,
        rows: list[_Row],
        job: WorkerJob,
        work: Callable[[list[_Row]], None],
        fail: Callable[[_Row, Failure], None],
    ) -> None:
        """Hands the device one batch of a lane, and waits for the one that is due."""
        self._report()  # now: the link talks while the device works
        try_rows(rows, work, fail)
        self._settle(_pipeline(job).run_ahead)

    def _settle(self, leave: int) -> None:
        while len(self._under_way) > leave:
            self._under_way.popleft()()

    def _sample(self, lane: str, job: WorkerJob, batch: int, seconds: float, gap_s: float | None = None) -> None:
        self._outbox.samples.append(Sample(lane, job.order.parameters.model, job.key, batch, seconds, gap_s))
        self._news = True

    def _fail_job(self, job: WorkerJob, failure: Failure) -> None:
        job.failure = failure

    def _fail(self, latent: Latent, failure: Failure) -> None:
        if latent.stage in ENDED or latent.dropped:
            return
        latent.fail(failure)
        self._urgent = True
        self._on_failure(failure.reason)
        _log.warning("latent failed", extra={"job": latent.id.job, "image": latent.id.image, "reason": failure.reason})


def _pipeline(job: WorkerJob) -> AnyPipeline:
    assert job.pipeline is not None
    return job.pipeline


def _log_first_evaluations(batch: list[Latent]) -> None:
    for latent in batch:
        if latent.evaluations == 0:
            _log.debug("first evaluation", extra={"job": latent.id.job, "image": latent.id.image})
