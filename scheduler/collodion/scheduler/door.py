"""The door: jobs that came and are in the book, but are neither accepted nor refused yet.

They wait for one short window, so that those that come together are judged together. Without an admission all are accepted at once.
"""

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
        self._waiting: list[Job] = []
        self._closes: float | None = None

    def ask(self, job: Job, now: float) -> None:
        """A new job."""
        if self._admission is None:
            self._lifecycle.accept(job)
            return
        self._waiting.append(job)
        if self._closes is None:
            self._closes = now + self._window_s

    def next(self) -> float | None:
        """When `open` is due (Unix seconds)."""
        return self._closes

    def open(self, now: float) -> None:
        """Judges those who wait, if their time has come."""
        if self._closes is None or now < self._closes or self._admission is None:
            return
        self._closes = None
        jobs, self._waiting = self._waiting, []
        there = [job for job in jobs if job.state is JobState.QUEUED]
        for verdict in self._admission.judge(there, now):
            self._carry_out(verdict)
        for job in jobs:
            if job.state is JobState.PARKED:  # its client hung up meanwhile: it is promised nothing
                self._lifecycle.accept(job)

    def _carry_out(self, verdict: Verdict) -> None:
        reason = verdict.reason
        if reason is None:
            self._lifecycle.accept(verdict.job, ("DEGRADED", verdict.warning) if verdict.warning else None)
            return
        self._lifecycle.refuse(
            verdict.job,
            lambda call: Refused(call, reason, verdict.message, verdict.retry_after_s, verdict.offer),
        )
