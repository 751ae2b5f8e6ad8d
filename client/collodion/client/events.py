"""What happens to a job, as frozen values; the order on a stream is that of `collodion.v1.JobEvent`.

Two things differ from the protocol: a picture is one event however many chunks it came in, and `Reattached` says that
the connection broke and was made again in between.
"""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import PIL.Image

from collodion.client.convert import time_of, word_of
from collodion.client.images import Image, decoded
from collodion.client.jobs import Failure, Job, Stage, Timings
from collodion.v1 import job_pb2


@dataclass(frozen=True)
class JobEvent:
    """Base of all events. `time` is when the scheduler learned of it."""

    job_id: str
    time: datetime.datetime | None


@dataclass(frozen=True)
class Accepted(JobEvent):
    """The first event: the job as it stands."""

    job: Job


@dataclass(frozen=True)
class Reattached(JobEvent):
    """The connection had broken and was made again; what follows is new, pictures that had arrived are not
    repeated."""

    job: Job


@dataclass(frozen=True)
class Warned(JobEvent):
    """Something could not be honoured to the letter, and the job goes on."""

    reason: str
    message: str


@dataclass(frozen=True)
class StageChanged(JobEvent):
    """Image `index` entered another stage."""

    index: int
    stage: Stage


@dataclass(frozen=True)
class Progress(JobEvent):
    """Image `index` has done `step` of `steps` steps."""

    index: int
    step: int
    steps: int
    predicted_finish_time: datetime.datetime | None


@dataclass(frozen=True)
class Preview(JobEvent):
    """What image `index` looks like after `step` steps: a small encoded picture."""

    index: int
    step: int
    mime_type: str
    data: bytes = field(repr=False)

    @cached_property
    def pil(self) -> PIL.Image.Image:
        """The decoded preview."""
        return decoded(self.data)


@dataclass(frozen=True)
class ImageReady(JobEvent):
    """A picture has arrived, whole and checked."""

    image: Image


@dataclass(frozen=True)
class ImageFailed(JobEvent):
    """Image `index` failed; the others go on."""

    index: int
    failure: Failure


@dataclass(frozen=True)
class Finished(JobEvent):
    """The last event: every picture was drawn. `deadline_met` is None where there was no deadline."""

    timings: Timings
    deadline_met: bool | None


@dataclass(frozen=True)
class Failed(JobEvent):
    """The last event: at least one image failed; this is the first failure."""

    failure: Failure
    timings: Timings


@dataclass(frozen=True)
class Cancelled(JobEvent):
    """The last event: the job was cancelled, and by whom or what."""

    message: str
    timings: Timings


Event = (
    Accepted
    | Reattached
    | Warned
    | StageChanged
    | Progress
    | Preview
    | ImageReady
    | ImageFailed
    | Finished
    | Failed
    | Cancelled
)


def simple_event(message: job_pb2.JobEvent) -> Event | None:
    """The event that needs nothing but its own message.

    None for those about pictures' bytes, and for kinds that this version does not know.
    """
    kind = message.WhichOneof("event")
    build = _BUILDERS.get(kind or "")
    return build(message, message.job_id, time_of(message, "event_time")) if build else None


def _progress(message: job_pb2.JobEvent, job_id: str, time: datetime.datetime | None) -> Progress:
    progress = message.progress
    predicted = time_of(progress, "predicted_finish_time")
    return Progress(job_id, time, progress.index, progress.step, progress.steps, predicted)


def _preview(message: job_pb2.JobEvent, job_id: str, time: datetime.datetime | None) -> Preview:
    preview = message.preview
    return Preview(job_id, time, preview.index, preview.step, preview.mime_type, preview.data)


def _finished(message: job_pb2.JobEvent, job_id: str, time: datetime.datetime | None) -> Finished:
    finished = message.finished
    met = finished.deadline_met if finished.HasField("deadline_met") else None
    return Finished(job_id, time, Timings.of(finished.timings), met)


_BUILDERS: dict[str, Callable[[job_pb2.JobEvent, str, datetime.datetime | None], Event]] = {
    "accepted": lambda m, job_id, time: Accepted(job_id, time, Job.of(m.accepted.job)),
    "warning": lambda m, job_id, time: Warned(job_id, time, m.warning.reason, m.warning.message),
    "stage": lambda m, job_id, time: StageChanged(job_id, time, m.stage.index, word_of(Stage, m.stage.stage)),
    "progress": _progress,
    "preview": _preview,
    "image_failed": lambda m, job_id, time: ImageFailed(
        job_id, time, m.image_failed.index, Failure.of(m.image_failed.failure)
    ),
    "finished": _finished,
    "failed": lambda m, job_id, time: Failed(job_id, time, Failure.of(m.failed.failure), Timings.of(m.failed.timings)),
    "cancelled": lambda m, job_id, time: Cancelled(job_id, time, m.cancelled.message, Timings.of(m.cancelled.timings)),
}
