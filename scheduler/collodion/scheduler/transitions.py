"""Where a job and a latent may go from where, and what takes them there. These two tables are the only place that says so.

1. FINISHED, FAILED, CANCELLED, DONE and STOPPED are ends: nothing leaves them.
2. A worker reports where a latent is, not how it came there, and reports may be thinned out: so a latent may skip stages, and
   only the loss of its worker takes it back.
3. What a table lacks is a defect of ours, never a peer's fault: a report that would go back is dropped before it gets here.
"""

from collections.abc import Mapping
from typing import TypeVar

from collodion.wire.jobs import JobState, Stage

State = TypeVar("State", JobState, Stage)
Table = Mapping[tuple[State, State], str]


class IllegalTransition(AssertionError):
    """A job or a latent was to go where its table does not lead."""


JOB_ENDS = frozenset({JobState.FINISHED, JobState.FAILED, JobState.CANCELLED})
LATENT_ENDS = frozenset({Stage.DONE, Stage.STOPPED})
ACTIVE = frozenset({Stage.ENCODING, Stage.DENOISING, Stage.DECODING})
"""Stages in which a latent is in a batch on a device."""

JOB_TRANSITIONS: Table[JobState] = {
    (JobState.QUEUED, JobState.RUNNING): "work on its first image begins",
    (JobState.QUEUED, JobState.PARKED): "its last watcher leaves",
    (JobState.QUEUED, JobState.FINISHED): "every image is stored",
    (JobState.QUEUED, JobState.FAILED): "an image failed and none is to come",
    (JobState.QUEUED, JobState.CANCELLED): "a client cancels it",
    (JobState.RUNNING, JobState.QUEUED): "the worker of its only begun images is lost",
    (JobState.RUNNING, JobState.PARKED): "its last watcher leaves",
    (JobState.RUNNING, JobState.FINISHED): "every image is stored",
    (JobState.RUNNING, JobState.FAILED): "an image failed and none is to come",
    (JobState.RUNNING, JobState.CANCELLED): "a client cancels it",
    (JobState.PARKED, JobState.QUEUED): "a watcher comes before anything began",
    (JobState.PARKED, JobState.RUNNING): "a watcher comes back",
    (JobState.PARKED, JobState.FINISHED): "its images were past their last step",
    (JobState.PARKED, JobState.FAILED): "an image failed and none is to come",
    (JobState.PARKED, JobState.CANCELLED): "the grace is over, or a client cancels it",
}

_BY_LOSS = "its worker is lost"
_BY_REPORT = "its worker says so"
_BY_STOP = "it failed, or its job is cancelled"

LATENT_TRANSITIONS: Table[Stage] = {
    (Stage.WAITING, Stage.ENCODING): _BY_REPORT,
    (Stage.WAITING, Stage.DENOISING): _BY_REPORT,
    (Stage.WAITING, Stage.PARKED): _BY_REPORT,
    (Stage.WAITING, Stage.DECODING): _BY_REPORT,
    (Stage.WAITING, Stage.DONE): _BY_REPORT,
    (Stage.WAITING, Stage.STOPPED): _BY_STOP,
    (Stage.ENCODING, Stage.WAITING): _BY_LOSS,
    (Stage.ENCODING, Stage.DENOISING): _BY_REPORT,
    (Stage.ENCODING, Stage.PARKED): _BY_REPORT,
    (Stage.ENCODING, Stage.DECODING): _BY_REPORT,
    (Stage.ENCODING, Stage.DONE): _BY_REPORT,
    (Stage.ENCODING, Stage.STOPPED): _BY_STOP,
    (Stage.DENOISING, Stage.WAITING): _BY_LOSS,
    (Stage.DENOISING, Stage.PARKED): _BY_REPORT,
    (Stage.DENOISING, Stage.DECODING): _BY_REPORT,
    (Stage.DENOISING, Stage.DONE): _BY_REPORT,
    (Stage.DENOISING, Stage.STOPPED): _BY_STOP,
    (Stage.PARKED, Stage.WAITING): _BY_LOSS,
    (Stage.PARKED, Stage.ENCODING): _BY_REPORT,
    (Stage.PARKED, Stage.DENOISING): _BY_REPORT,
    (Stage.PARKED, Stage.DECODING): _BY_REPORT,
    (Stage.PARKED, Stage.DONE): _BY_REPORT,
    (Stage.PARKED, Stage.STOPPED): _BY_STOP,
    (Stage.DECODING, Stage.WAITING): _BY_LOSS,
    (Stage.DECODING, Stage.DONE): _BY_REPORT,
    (Stage.DECODING, Stage.STOPPED): _BY_STOP,
}


def check(table: Table[State], now: State, then: State) -> None:
    """Raises IllegalTransition unless the table leads from `now` to `then`."""
    if (now, then) not in table:
        raise IllegalTransition(f"{now} to {then}")


def diagram(table: Table[State]) -> str:
    """The table as a Mermaid state diagram, for the docs."""
    arrows: list[str] = [f"    {now} --> {then}: {cause}" for (now, then), cause in table.items()]
    return "\n".join(["stateDiagram-v2", *arrows])
