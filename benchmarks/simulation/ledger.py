"""What became of each request, as its client would see it: the frontends' side of a simulation."""

from dataclasses import dataclass
from enum import StrEnum

from collodion.wire.jobs import JobState
from collodion.wire.to_frontend import JobAnswer, JobView, Refused
from simulation.instance import Instance


class Outcome(StrEnum):
    """How a request ended."""

    FINISHED = "finished"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"
    OPEN = "open"


_OUTCOMES = {
    JobState.FINISHED: Outcome.FINISHED,
    JobState.FAILED: Outcome.FAILED,
    JobState.CANCELLED: Outcome.CANCELLED,
}


@dataclass(slots=True)
class Record:
    """One request's fate. `finish` and `predicted` (at its acceptance) are seconds, as the scheduler's clock tells the deadline.

    `promised`: its deadline was promised at its acceptance. `evaluations` is what each image was granted (fewer if degraded).
    `job` is its id, empty if it was not accepted; `reason` is why it was refused or failed.
    """

    index: int
    evaluations: int
    job: str = ""
    outcome: Outcome = Outcome.OPEN
    finish: float | None = None
    predicted: float | None = None
    promised: bool = False
    on_time: bool = False
    reason: str = ""


class Ledger:
    """A record for each request, in the instance's order. `origin` is the scheduler's time at the instance's zero."""

    def __init__(self, instance: Instance, origin: float) -> None:
        self._origin = origin
        self._undated = {index for index, each in enumerate(instance.requests) if each.slo_s is None}
        self._open = set(range(len(instance.requests)))
        self.records = [Record(index, each.evaluations) for index, each in enumerate(instance.requests)]

    @property
    def decided(self) -> int:
        """How many have an outcome."""
        return len(self.records) - len(self._open)

    @property
    def waits_for_undated(self) -> bool:
        """Whether requests without a deadline are open: no moment makes their outcome plain."""
        return not self._undated.isdisjoint(self._open)

    def answered(self, answer: JobAnswer) -> None:
        """A request was accepted. (Its call is its index.)"""
        record, view = self.records[answer.call], answer.view
        record.job = view.job
        record.promised = view.promised
        record.evaluations = view.spec.parameters.steps
        if view.predicted_finish is not None:
            record.predicted = view.predicted_finish - self._origin

    def refused(self, refusal: Refused) -> None:
        """A request was not accepted."""
        self._close(refusal.call, Outcome.REFUSED, refusal.reason.value)

    def ended(self, index: int, view: JobView) -> None:
        """A job came to its end."""
        assert view.ended is not None
        self._close(index, _OUTCOMES[view.state], view.failure.reason.value if view.failure else "")
        if view.state is JobState.FINISHED:
            self.records[index].finish = view.ended - self._origin
            self.records[index].on_time = bool(view.deadline_met)

    def _close(self, index: int, outcome: Outcome, reason: str) -> None:
        self.records[index].outcome, self.records[index].reason = outcome, reason
        self._open.discard(index)
