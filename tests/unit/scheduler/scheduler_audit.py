"""What has to hold of a scheduler's core at any moment, whatever was sent, lost, repeated or killed."""

from collections import Counter

from collodion.scheduler.core import Core
from collodion.scheduler.events import Command, TellFrontend, TellWorker
from collodion.scheduler.fleet import Worker
from collodion.scheduler.job import Job, Latent
from collodion.scheduler.placement import total
from collodion.scheduler.transitions import ACTIVE, JOB_ENDS
from collodion.wire.jobs import JobState, Residency, Stage
from collodion.wire.to_frontend import Accepted, Ended, ImageFailed, ImageStored, JobEvent, Progressed, StageChanged
from collodion.wire.to_worker import Membership


def audit(core: Core) -> None:
    """Every record and every index agree."""
    for job in core.book.live.values():
        _audit_job(core, job)
    for worker in core.fleet.workers.values():
        _audit_worker(worker)
        _audit_models(core, worker)
    latents = [latent for job in core.book.live.values() for latent in job.latents]
    assert core.dispatch.backlog.total == sum(latent.ticket > 0 for latent in latents)
    assert sum(len(worker.held) for worker in core.fleet.workers.values()) == sum(
        bool(latent.worker) for latent in latents
    )
    states = Counter(job.state for job in core.book.live.values())
    assert {state: count for state, count in core.book.states.items() if count} == states
    for call in core.watchers:
        assert core.watchers.get(call.peer, call.number) is call
        assert call in core.watchers.of_job(call.job)
        assert call in core.watchers.of_peer(call.peer)


def _audit_job(core: Core, job: Job) -> None:
    assert job.state not in JOB_ENDS
    assert not all(latent.ended for latent in job.latents), "it has ended, and nobody noticed"
    assert job.active == sum(latent.stage in ACTIVE for latent in job.latents)
    assert core.book.place(job) == sum(
        other.state is JobState.QUEUED and other.id < job.id for other in core.book.live.values()
    ) * (job.state is JobState.QUEUED)
    watched = core.watchers.watched(job.id)
    if job.state is JobState.PARKED:
        assert not watched
        assert job.parked_until is not None
    elif job.acknowledged:
        assert watched or job.spec.detach, "nobody waits for it, and it runs"
    for latent in job.latents:
        _audit_latent(core, latent)


def _audit_latent(core: Core, latent: Latent) -> None:
    waits, held = latent.ticket > 0, latent.worker is not None
    free = latent.job.acknowledged and latent.job.state is not JobState.PARKED
    if latent.ended:
        assert not waits
        assert not held
    elif held:
        assert latent.worker is not None
        assert not waits
        assert core.fleet.workers[latent.worker].held[latent.id] is latent
    else:
        assert waits == (free and latent.planned is None)
        assert latent.planned is None or latent.job.promised
        assert latent.stage is Stage.WAITING


def _audit_worker(worker: Worker) -> None:
    assert len(worker.held) <= worker.max_resident
    assert len(worker.running) <= worker.max_resident

    assert all(latent.runnable and worker.held[latent.id] is latent for latent in worker.running)
    assert worker.wish is not None
    running, _, parked = worker.wish
    assert running == tuple(latent.id for latent in worker.running)
    assert set(running) | set(parked) == worker.held.keys()
    assert len(running) + len(parked) == len(worker.held)
    assert worker.known | worker.carried.keys() == {latent.id.job for latent in worker.held.values()}


def _audit_models(core: Core, worker: Worker) -> None:
    placement = core.residency.placement
    assert worker.wanted.keys() >= placement.busy(worker), "a model goes under a latent that is held or in line"
    assert worker.takes <= worker.wanted.keys() - worker.draining
    assert all(worker.where(name) is Residency.RESIDENT for name in worker.takes)
    assert all(core.fleet.with_model(name).count(worker) == 1 for name in worker.takes)
    if worker.wished and worker.model_bytes:
        assert total(worker, worker.wanted) <= worker.model_bytes, "more is wished for than fits"


class Listener:
    """Listens to all that the core says, and knows what may not be said."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, Membership] = {}
        self._told: dict[tuple[bytes, int], list[object]] = {}
        self._steps: dict[tuple[bytes, int, int], int] = {}

    def heard(self, command: Command) -> None:
        """A command that was carried out."""
        if isinstance(command, TellWorker) and isinstance(command.message, Membership):
            self._membership(command.peer, command.message)
        if isinstance(command, TellFrontend) and isinstance(command.message, JobEvent):
            for call in command.message.calls:
                self._event(command.peer, call, command.message)

    def _membership(self, peer: bytes, membership: Membership) -> None:
        last = self._numbers.get(peer)
        if last is not None and last.scheduler == membership.scheduler:
            assert membership.number >= last.number
            if membership.number == last.number:
                assert (membership.running, membership.parked) == (last.running, last.parked)
        self._numbers[peer] = membership

    def _event(self, peer: bytes, call: int, message: JobEvent) -> None:
        event, told = message.event, self._told.setdefault((peer, call), [])
        assert bool(told) != isinstance(event, Accepted), "accepted comes first, and once"
        assert not any(isinstance(earlier, Ended) for earlier in told) or isinstance(event, Ended)
        if isinstance(event, ImageStored | ImageFailed):
            index = event.image.index if isinstance(event, ImageStored) else event.index
            assert index not in told, "an image ends once"
            told.append(index)
        if isinstance(event, StageChanged) and event.stage is Stage.WAITING:
            self._steps.pop((peer, call, event.index), None)
        if isinstance(event, Progressed):
            assert event.step >= self._steps.get((peer, call, event.index), 0)
            self._steps[peer, call, event.index] = event.step
        if isinstance(event, Accepted | Ended):
            told.append(event)
