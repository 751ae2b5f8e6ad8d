"""The door: jobs that came and are in the book, but are neither accepted nor refused yet.

They wait for one short window, so that those that come together are judged together: those worth most for their device time first, and so
many at a time that the messages of others are not kept waiting. Without an admission all are accepted at once.
"""

from collections import deque
from collections.abc import Iterable

from collodion.scheduler.admission import Admission, Verdict
from collodion.scheduler.job import Job
from collodion.scheduler.lifecycle import Lifecycle
from collodion.wire.jobs import JobState
from collodion.wire.to_frontend import Refused


class Door:
    """Who waits to be judged."""

    def __init__(self, admission: Admission | None, window_s: float, lifecycle: Lifecycle) -> None:
        self._admission = admission
        self._window_s = window_s
        self._lifecycle = lifecycle
        self._waiting: deque[Job] = deque()
        self._unsorted = False
        self._closes: float | None = None

    def ask(self, job: Job, now: float) -> None:
        """A new job."""
        if self._admission is None:
            self._lifecycle.accept(job)
            return
        self._admission.ask(job, now)
        self._waiting.append(job)
        self._unsorted = True
        if self._closes is None:
            self._closes = now + self._window_s

    def next(self) -> float | None:
        """When `open` is due (Unix seconds)."""
        return self._closes

    def open(self, now: float) -> None:
        """Judges those who wait, if their time has come."""
        if self._closes is None or now < self._closes or self._admission is None:
            return
        if self._unsorted:
            self._waiting = deque(sorted(self._waiting, key=self._admission.worth, reverse=True))
            self._unsorted = False
        self._admission.begin(now)
        while self._waiting and not self._admission.tired():
            job = self._waiting.popleft()
            if job.state is JobState.QUEUED:
                self._carry_out(self._admission.judge(job, now))
            elif job.state is JobState.PARKED:  # its client hung up meanwhile: it is promised nothing
                self._lifecycle.accept(job)
        self._closes = now if self._waiting else None

    def mend(self, jobs: Iterable[Job]) -> None:
        """After a defect: who was lost while it was judged is accepted without a promise."""
        waiting = {job.id for job in self._waiting}
        for job in jobs:
            if not job.accepted and job.id not in waiting:
                job.promised = False
                self._lifecycle.accept(job)

    def _carry_out(self, verdict: Verdict) -> None:
        reason = verdict.reason
        if reason is None:
            self._lifecycle.accept(verdict.job, verdict.warning)
            return
        self._lifecycle.refuse(
            verdict.job,
            lambda call: Refused(call, reason, verdict.message, verdict.retry_after_s, verdict.offer),
        )
