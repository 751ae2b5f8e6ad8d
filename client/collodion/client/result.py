"""What `generate` returns, gathered from a job's events. Pure, but for the caller's own callbacks."""

from collections.abc import Callable
from dataclasses import dataclass

import grpc

from collodion.client.errors import JobCancelled, JobFailed
from collodion.client.events import Accepted, Cancelled, Event, Failed, Finished, ImageReady, Preview, Progress, Warned
from collodion.client.images import Image
from collodion.client.jobs import Job, Timings
from collodion.client.requests import JobOptions


@dataclass(frozen=True)
class Generation:
    """A job that is finished. `job` is as it was accepted, its parameters complete.

    `images` are by index. One that the server no longer stores is not among them, and of `warnings` one with the reason
    IMAGE_NOT_FOUND says so: this happens to who attaches, or comes back, long after it was drawn.
    """

    job: Job
    images: tuple[Image, ...]
    warnings: tuple[Warned, ...]
    timings: Timings
    deadline_met: bool | None


@dataclass(frozen=True)
class Callbacks:
    """What the caller wants to be told while waiting. They run where the events are read: a slow one delays only its
    own job."""

    on_progress: Callable[[Progress], object] | None = None
    on_preview: Callable[[Preview], object] | None = None
    on_image: Callable[[Image], object] | None = None
    on_event: Callable[[Event], object] | None = None

    def options(self, options: JobOptions) -> JobOptions:
        """`options`, with a preview at every step if previews are listened for and no interval was given."""
        return {"preview_interval": 1, **options} if self.on_preview else options

    def tell(self, event: Event) -> None:
        """Calls whom it concerns."""
        if self.on_event:
            self.on_event(event)
        match event:
            case Progress() if self.on_progress:
                self.on_progress(event)
            case Preview() if self.on_preview:
                self.on_preview(event)
            case ImageReady(image=image) if self.on_image:
                self.on_image(image)


class Gathering:
    """Gathers one job's events."""

    def __init__(self, callbacks: Callbacks) -> None:
        self._callbacks = callbacks
        self._job: Job | None = None
        self._images: list[Image] = []
        self._warnings: list[Warned] = []
        self._end: Finished | Failed | Cancelled | None = None

    def take(self, event: Event) -> None:
        """The next event."""
        match event:
            case Accepted(job=job):
                self._job = job
            case ImageReady(image=image):
                self._images.append(image)
            case Warned():
                self._warnings.append(event)
            case Finished() | Failed() | Cancelled():
                self._end = event
        self._callbacks.tell(event)

    def result(self) -> Generation:
        """What came of the job, after its last event.

        Raises:
            JobFailed: an image of it failed.
            JobCancelled: it was cancelled.
        """
        images = tuple(sorted(self._images, key=lambda image: image.index))
        match self._end:
            case Finished(timings=timings, deadline_met=met):
                assert self._job is not None, "every stream starts with the job"
                return Generation(self._job, images, tuple(self._warnings), timings, met)
            case Failed(job_id=job_id, failure=failure):
                raise JobFailed(failure.message, job_id=job_id, images=images, reason=failure.reason, code=failure.code)
            case Cancelled(job_id=job_id, message=message):
                raise JobCancelled(
                    message or "the job was cancelled",
                    job_id=job_id,
                    images=images,
                    reason="CANCELLED",
                    code=grpc.StatusCode.CANCELLED,
                )
        raise AssertionError("a stream ends with an error or with its last event")
