"""One job followed over as many calls as it takes.

Pure: told what was heard, it says what to tell the caller and what to call next.

1. Before `accepted` was heard, a broken call is made again as it was: its `request_id` makes that safe.
2. After it, a broken call is followed by WatchJob: the job was parked at once, and goes on where it was if that is
   within its grace.
3. Pictures that had arrived are not told twice; one of which only pieces had arrived comes anew. One that its server no
   longer stores ends with an empty last piece: nothing is told of it beside the server's warning, and the job goes on.
4. A job that its server has forgotten (its scheduler was restarted, or it is NOT_FOUND although it was accepted) is
   `JobLost`. It is not submitted again by itself: with an open seed other pictures would come, to a caller who may
   hold some of the old ones. The caller may, with the same `request_id` and seed.
5. What counts as broken is what `retries` calls retryable, and a stream that ends before the job does. News (more
   than the state at attaching) starts the count of attempts anew.
"""

from collections.abc import Iterator

from collodion.client import requests
from collodion.client.assembling import Assembly
from collodion.client.convert import time_of
from collodion.client.errors import CollodionError, CorruptImage, JobLost, NotFound, ServerUnavailable
from collodion.client.events import (
    Accepted,
    Cancelled,
    Event,
    Failed,
    Finished,
    ImageFailed,
    ImageReady,
    Reattached,
    simple_event,
)
from collodion.client.images import Image
from collodion.client.jobs import Parameters
from collodion.client.retries import Retries, RetryPolicy
from collodion.v1 import generation_pb2, job_pb2

Call = generation_pb2.GenerateRequest | generation_pb2.WatchJobRequest


class Following:
    """Follows the job that `first` submits, or attaches to."""

    def __init__(self, first: Call, submitting: RetryPolicy, reattaching: RetryPolicy) -> None:
        self._first = first
        self._reattaching = reattaching
        self._retries = Retries(submitting)
        self._known: set[int] = set()
        self._assembly: Assembly | None = None
        self.job_id = ""
        self.images: list[Image] = []
        self.ended = False

    def next_call(self) -> Call:
        """What to call now."""
        self._assembly = None
        return requests.watch(self.job_id) if self.job_id else self._first

    def hear(self, message: job_pb2.JobEvent) -> Iterator[Event]:
        """What the caller is to be told of this message.

        Raises:
            CorruptImage: the pieces of a picture do not make the one that was announced.
        """
        for event in self._told(message):
            if not isinstance(event, Accepted | Reattached):
                self._retries.succeeded()
            yield event

    def closed(self) -> None:
        """The stream ended without an error.

        Raises:
            ServerUnavailable: but the job had not.
        """
        if not self.ended:
            raise ServerUnavailable("the stream ended before the job did", reason="STREAM_ENDED")

    def broken(self, error: CollodionError) -> float:
        """The call ended with `error`. Returns the seconds to wait before the next one.

        Raises:
            CollodionError: there is to be no next one.
        """
        if self.ended:
            return 0.0
        if self.job_id and (isinstance(error, NotFound) or error.reason == "SCHEDULER_RESTARTED"):
            raise JobLost(
                f"the server was restarted and no longer knows job {self.job_id}; submit it again",
                job_id=self.job_id,
                images=tuple(self.images),
                reason=error.reason,
                code=error.code,
            ) from error
        return self._retries.delay_s(error)

    def _told(self, message: job_pb2.JobEvent) -> Iterator[Event]:
        match message.WhichOneof("event"):
            case "image":
                yield from self._image(message)
            case "image_chunk":
                chunk = message.image_chunk
                yield from self._piece(message, chunk.offset, chunk.data, chunk.last)
            case _:
                event = simple_event(message)
                if event is not None:
                    yield from self._simple(event)

    def _simple(self, event: Event) -> Iterator[Event]:
        match event:
            case Accepted(job_id=job_id, time=time, job=job):
                if self.job_id:
                    event = Reattached(job_id, time, job)
                else:
                    self.job_id = job_id
                    self._retries = Retries(self._reattaching)
            case ImageFailed(index=index):
                if index in self._known:
                    return
                self._known.add(index)
            case Finished() | Failed() | Cancelled():
                self.ended = True
        yield event

    def _image(self, message: job_pb2.JobEvent) -> Iterator[Event]:
        ready = message.image
        self._assembly = Assembly(message.job_id, ready.image, Parameters.of(ready.parameters))
        return self._piece(message, 0, ready.data, last=False)

    def _piece(self, message: job_pb2.JobEvent, offset: int, data: bytes, last: bool) -> Iterator[Event]:
        assembly = self._assembly
        if assembly is None:
            raise CorruptImage("a piece of a picture came that was not announced", reason="CORRUPT_IMAGE")
        assembly.add(offset, data)
        if assembly.whole or last:
            self._assembly = None
            if assembly.whole or data:
                yield from self._deliver(message, assembly.image())

    def _deliver(self, message: job_pb2.JobEvent, image: Image) -> Iterator[Event]:
        if image.index not in self._known:
            self._known.add(image.index)
            self.images.append(image)
            yield ImageReady(message.job_id, time_of(message, "event_time"), image)
