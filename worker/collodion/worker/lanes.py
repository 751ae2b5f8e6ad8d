"""The lanes of a device: what becomes of a batch that is encoded, stepped or decoded.

1. A batch that raises is tried again row by row, so that only the guilty latent fails.
2. On a device that works asynchronously up to `run_ahead` batches are under way; the oldest is waited for, never the newest.
3. A latent that has made its last evaluation goes on to `finished` by itself, and leaves it to be decoded, first come first served.
   While the keeper is full none is.
4. A batch that is decoded beside the steps (`Decoded.advance`) is brought forward at each boundary and holds up none. There is one at a
   time, and it is finished whatever that costs when the next one is due, when there is nothing else to do, and when another model is
   stepped: what it costs that one is not known.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from collodion.wire.jobs import Failure, Stage
from collodion.worker.faults import Row, non_finite, try_rows
from collodion.worker.latent import Latent, WorkerJob
from collodion.worker.news import News
from collodion.worker.outbox import Outbox, Sample
from collodion.worker.pipeline import Decoded, Encoded, Picture, Stepped
from collodion.worker.timing import Span
from collodion.worker.window import Batch

_log = logging.getLogger(__name__)
_Row = TypeVar("_Row", bound=Row)


class Keeper(Protocol):
    """Stores finished pictures, elsewhere; then finishes or fails the latent. full: no more are to be decoded for now."""

    @property
    def full(self) -> bool:
        """When it is so no more, somebody wakes the engine."""

    def keep(self, latent: Latent, picture: Picture) -> None:
        """Returns at once."""


class Lanes:
    """Hands batches to the device. `fail` ends one latent; nobody else is concerned."""

    def __init__(self, outbox: Outbox, news: News, keeper: Keeper, fail: Callable[[Latent, Failure], None]) -> None:
        self._outbox = outbox
        self._news = news
        self._keeper = keeper
        self._fail = fail
        self._under_way: deque[Callable[[], None]] = deque()
        self._beside: deque[tuple[list[Latent], Decoded]] = deque()
        self._last_step: Span | None = None
        self._stepped_model = ""
        self.finished: list[Latent] = []

    def encode(self, jobs: list[WorkerJob]) -> None:
        """The prompts of these jobs, all of one model: each has its conditioning then, or a failure."""
        self._last_step = None
        _log.debug("encoding", extra={"jobs": [job.order.job for job in jobs]})
        self._hand_over(jobs, jobs[0], self._encode, _fail_job)
        _log.debug("encoded", extra={"jobs": [job.order.job for job in jobs]})

    def step(self, batch: Batch) -> None:
        """One evaluation of these latents, all of one batch key."""
        latents = batch.latents
        self._stepped_model = latents[0].job.model
        self._hand_over(
            latents, latents[0].job, lambda rows: self._step(batch if rows is latents else Batch.of(rows)), self._fail
        )

    def decode(self, most: int) -> bool:
        """One batch of finished latents of one batch key, at most so many; False if there are none, or none is to be decoded now."""
        if self._beside:
            due = len(self.finished) >= most
            self._bring_forward(hurry=due or self._beside[0][0][0].job.model != self._stepped_model)
        if not self.finished or self._beside or self._keeper.full:
            return False
        # Meanwhile it may have been dropped, or its last evaluation may have turned out to have gone wrong.
        waiting = [latent for latent in self.finished if latent.stage is Stage.DECODING and not latent.dropped]
        batch = [latent for latent in waiting if latent.job.key == waiting[0].job.key][:most]
        chosen = set(map(id, batch))
        self.finished = [latent for latent in waiting if id(latent) not in chosen]
        if batch:
            self._last_step = None
            self._hand_over(batch, batch[0].job, self._decode, self._fail)
            if self._beside:
                self._bring_forward(hurry=False)
        return bool(batch)

    def rest(self) -> bool:
        """Waits for what is under way; False if nothing was. What comes then does not come right after a step."""
        self._last_step = None
        under_way = bool(self._under_way or self._beside)
        while self._beside:
            self._bring_forward(hurry=True, wait=True)
        self.settle(0)
        return under_way

    def settle(self, leave: int) -> None:
        """Waits until no more than so many batches are under way."""
        while len(self._under_way) > leave:
            self._under_way.popleft()()

    def _hand_over(
        self,
        rows: list[_Row],
        job: WorkerJob,
        work: Callable[[list[_Row]], None],
        fail: Callable[[_Row, Failure], None],
    ) -> None:
        self._news.tell()  # now: the link talks while the device works
        try_rows(rows, work, fail)
        self.settle(job.loaded.run_ahead)

    def _encode(self, jobs: list[WorkerJob]) -> None:
        encoded = jobs[0].loaded.encode([job.plan for job in jobs])
        for job, conditioning in zip(jobs, encoded.conditioning, strict=True):
            job.conditioning = conditioning
        self._under_way.append(lambda: self._encoded(jobs, encoded))

    def _encoded(self, jobs: list[WorkerJob], encoded: Encoded[Any]) -> None:
        self._sample("encode", jobs[0], len(jobs), encoded.span.wait(), whole=encoded.whole)

    def _step(self, batch: Batch) -> None:
        stepped = batch.latents[0].job.loaded.step(batch.states)
        for latent in batch.latents:
            if latent.advance():
                latent.stage = Stage.DECODING
                self.finished.append(latent)
                self._news.urge()
        self._news.note()
        previous, self._last_step = self._last_step, stepped.span
        self._under_way.append(lambda: self._stepped(batch, stepped, previous))

    def _stepped(self, batch: Batch, stepped: Stepped, previous: Span | None) -> None:
        latents, seconds = batch.latents, stepped.span.wait()
        gap_s = None if previous is None else stepped.span.gap_after(previous)
        self._sample("step", latents[0].job, batch.rows, seconds, len(latents), gap_s, stepped.whole)
        for row in stepped.non_finite():
            self._fail(latents[row], non_finite(latents[row]))

    def _decode(self, rows: list[Latent]) -> None:
        decoded = rows[0].job.loaded.decode([latent.state for latent in rows])
        if decoded.advance is None:
            self._under_way.append(lambda: self._decoded(rows, decoded))
        else:
            self._beside.append((rows, decoded))

    def _bring_forward(self, hurry: bool, wait: bool = False) -> None:
        """The batch that is decoded beside the steps. If it raises, its latents are decoded one by one. wait: until it is done."""
        rows, decoded = self._beside.popleft()
        advance, said = decoded.advance, list[bool]()
        assert advance is not None

        def work(tried: list[Latent]) -> None:
            if tried is rows:
                said.append(advance(hurry))
            elif tried[0].state is not None:  # it was not dropped, nor failed, meanwhile
                self._decode(tried)

        try_rows(rows, work, self._fail)
        if said and (said[0] or wait):
            self._decoded(rows, decoded)
        elif said:
            self._beside.appendleft((rows, decoded))

    def _decoded(self, rows: list[Latent], decoded: Decoded) -> None:
        self._sample("decode", rows[0].job, len(rows), decoded.span.wait())
        for latent, picture in zip(rows, decoded.pictures(), strict=True):
            latent.free()
            if picture is None:
                self._fail(latent, non_finite(latent))
            elif latent.stage is Stage.DECODING and not latent.dropped:
                self._keeper.keep(latent, picture)

    def _sample(
        self,
        lane: str,
        job: WorkerJob,
        batch: int,
        seconds: float,
        evaluations: int = 0,
        gap_s: float | None = None,
        whole: bool = True,
    ) -> None:
        model = job.order.parameters.model
        self._outbox.samples.append(Sample(lane, model, job.key, batch, seconds, evaluations, gap_s, whole))
        self._news.note()


def _fail_job(job: WorkerJob, failure: Failure) -> None:
    job.failure = failure
