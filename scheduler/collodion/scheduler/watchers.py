"""Calls that watch a job, and what each of them was told.

1. A call is told `Accepted` first, each image's end at most once, `Ended` once; in between whatever happens.
2. A message that did not get through marks its calls as stale, unless it may be coalesced. A stale call is told nothing until
   its frontend is heard again; then it is brought up to date, and nothing that it was told already is repeated but its
   images' stages.
3. A call that was told `Ended` is kept until its frontend's beat no longer names it, so that a beat that crossed the event
   on its way is understood.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from collodion.scheduler.events import Outbox, TellFrontend
from collodion.scheduler.transitions import LATENT_ENDS
from collodion.scheduler.views import Standing
from collodion.wire.jobs import Stage
from collodion.wire.to_frontend import (
    Accepted,
    Ended,
    Event,
    ImageFailed,
    ImageStored,
    JobEvent,
    Previewed,
    Progressed,
    StageChanged,
)

_UNKNOWN = 1 << 62  # steps: above all progress, so that the call is told again that the image waits


@dataclass(slots=True, eq=False)
class Call:
    """One watching call: the frontend's peer, its number there, the job.

    `present` is false while its frontend is not heard; `told` are the images whose end it knows, `steps` the
    progress it was told of each; `named_ended` counts beats that still named it after its end.
    """

    peer: bytes
    number: int
    job: str
    present: bool = True
    accepted: bool = False
    stale: bool = False
    ended: bool = False
    named_ended: int = 0
    told: set[int] = field(default_factory=set)
    steps: dict[int, int] = field(default_factory=dict)

    @property
    def reachable(self) -> bool:
        """Whether events may be sent to it."""
        return self.accepted and self.present and not self.stale and not self.ended


class Watchers:
    """All watching calls."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._calls: dict[tuple[bytes, int], Call] = {}
        self._of_job: dict[str, dict[tuple[bytes, int], Call]] = {}
        self._of_peer: dict[bytes, dict[int, Call]] = {}

    def add(self, peer: bytes, number: int, job: str) -> Call:
        """A new call, of which nothing is told yet."""
        call = Call(peer, number, job)
        self._calls[peer, number] = call
        self._of_job.setdefault(job, {})[peer, number] = call
        self._of_peer.setdefault(peer, {})[number] = call
        return call

    def remove(self, call: Call) -> None:
        """Forgets a call."""
        del self._calls[call.peer, call.number]
        del self._of_job[call.job][call.peer, call.number]
        if not self._of_job[call.job]:
            del self._of_job[call.job]
        del self._of_peer[call.peer][call.number]
        if not self._of_peer[call.peer]:
            del self._of_peer[call.peer]

    def get(self, peer: bytes, number: int) -> Call | None:
        """The call, if it is known."""
        return self._calls.get((peer, number))

    def of_peer(self, peer: bytes) -> list[Call]:
        """A frontend's calls."""
        return list(self._of_peer.get(peer, {}).values())

    def of_job(self, job: str) -> list[Call]:
        """A job's calls."""
        return list(self._of_job.get(job, {}).values())

    def watched(self, job: str) -> bool:
        """Whether anybody is there to see the job."""
        return any(call.present and not call.ended for call in self._of_job.get(job, {}).values())

    def tell(self, job: str, event: Event, now: float, opaque: bytes = b"") -> None:
        """An event for every call that can be reached."""
        reached = [call for call in self._of_job.get(job, {}).values() if call.reachable]
        if not reached:
            return
        if isinstance(event, Progressed):
            for call in reached:
                call.steps[event.index] = event.step
        elif (image := _image_ended(event)) is not None:
            for call in reached:
                call.told.add(image)
        by_peer: dict[bytes, list[int]] = {}
        for call in reached:
            by_peer.setdefault(call.peer, []).append(call.number)
        for peer, numbers in by_peer.items():
            self._outbox.add(TellFrontend(peer, JobEvent(tuple(numbers), job, now, event), opaque))

    def update(self, call: Call, standing: Standing, now: float) -> None:
        """Tells a new or a stale call all that it has to know."""
        call.stale = False
        if call.accepted:
            self._tell_stages(call, standing, now)
        else:
            self._tell_one(call, Accepted(standing.view), now)
            call.accepted = True
        self._tell_images(call, standing, now)
        if (ended := standing.ended()) is not None:
            self._tell_one(call, ended, now)
            call.ended = True

    def end(self, job: str, standing: Standing, now: float) -> None:
        """The job has ended: the last event for every call that can be reached; others get it when they can be."""
        ended = standing.ended()
        assert ended is not None
        reached = [call for call in self._of_job.get(job, {}).values() if call.reachable]
        for call in reached:
            self._tell_images(call, standing, now)
        self.tell(job, ended, now)
        for call in reached:
            call.ended = True

    def failed(self, peer: bytes, message: JobEvent) -> None:
        """This message did not get through: its calls have not been told."""
        if isinstance(message.event, Progressed | Previewed):
            return
        image = _image_ended(message.event)
        for number in message.calls:
            if (call := self._calls.get((peer, number))) is not None:
                call.stale = True
                call.accepted &= not isinstance(message.event, Accepted)
                call.ended &= not isinstance(message.event, Ended)
                if image is not None:
                    call.told.discard(image)
                if isinstance(message.event, StageChanged) and message.event.stage is Stage.WAITING:
                    call.steps[message.event.index] = _UNKNOWN

    def __contains__(self, job: str) -> bool:
        return job in self._of_job

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls.values())

    def _tell_stages(self, call: Call, standing: Standing, now: float) -> None:
        for image in standing.view.progress:
            if image.stage not in LATENT_ENDS:
                if image.step < call.steps.get(image.index, 0):
                    # Its worker was lost in the meantime: without this, progress would seem to go back by itself.
                    self._tell_one(call, StageChanged(image.index, Stage.WAITING), now)
                self._tell_one(call, StageChanged(image.index, image.stage), now)
                self._tell_one(call, Progressed(image.index, image.step, image.steps), now)

    def _tell_images(self, call: Call, standing: Standing, now: float) -> None:
        for stored in standing.view.images:
            self._tell_once(call, stored.index, ImageStored(stored), now)
        for index, failure in standing.failures:
            self._tell_once(call, index, ImageFailed(index, failure), now)

    def _tell_once(self, call: Call, index: int, event: Event, now: float) -> None:
        if index not in call.told:
            call.told.add(index)
            self._tell_one(call, event, now)

    def _tell_one(self, call: Call, event: Event, now: float) -> None:
        self._outbox.add(TellFrontend(call.peer, JobEvent((call.number,), call.job, now, event)))


def _image_ended(event: Event) -> int | None:
    if isinstance(event, ImageStored):
        return event.image.index
    return event.index if isinstance(event, ImageFailed) else None
