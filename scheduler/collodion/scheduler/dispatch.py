"""Dispatch: which waiting latents go to which worker, and what each worker is told to run and to hold.

1. Handlers only note what changed; `settle` decides, once an event, for the workers concerned alone.
2. A latent is placed when a policy chooses it, and stays on its worker: parked ones have state there. What waits has none, so it
   stays free to go to whoever is ready first.
3. A policy that plans ahead may have a latent in a worker's line before the worker holds it, and may take one that has not begun from
   one worker's line for another's.
4. Newcomers are shared out so that the workers concerned are loaded alike, the least loaded asked first.
5. A membership is sent when it differs from the last one sent. Numbers ascend over all workers, so that a worker that was
   lost and returns never sees an old one.
"""

from collections.abc import Collection, Iterable

from collodion.scheduler.backlog import Backlog
from collodion.scheduler.cost_model import CostModel
from collodion.scheduler.events import Outbox, TellWorker
from collodion.scheduler.fleet import Fleet, Wish, Worker
from collodion.scheduler.job import Job, Latent
from collodion.scheduler.policy import Policy, Situation
from collodion.wire.jobs import LatentId
from collodion.wire.to_worker import JobOrder, Membership

_UNSHARED = 1 << 30


class Dispatch:
    """Decides and sends memberships."""

    def __init__(
        self, incarnation: str, fleet: Fleet, policy: Policy, backlog: Backlog, costs: CostModel, outbox: Outbox
    ) -> None:
        self._incarnation = incarnation
        self._fleet = fleet
        self._policy = policy
        self._costs = costs
        self._outbox = outbox
        self._number = 0
        self._concerned: dict[bytes, Worker] = {}
        self._arrived: dict[tuple[str, str], None] = {}
        self._hopeless: dict[str, Job] = {}
        self._undecided: dict[bytes, Worker] = {}
        self.backlog = backlog

    def enqueue(self, latent: Latent) -> None:
        """The latent waits for a worker from now on, unless it is in the line of one already."""
        latent.rank = self._policy.rank(latent)
        if latent.planned is not None:
            self.concern(self._fleet.workers[latent.planned])
            return
        self.backlog.add(latent)
        self._arrived[latent.model, latent.key] = None

    def withdraw(self, latent: Latent, now: float) -> None:
        """The latent neither waits nor is held any longer."""
        self.set_aside(latent, now)
        if latent.worker is not None:
            worker = self._fleet.workers[latent.worker]
            worker.release(latent)
            self.concern(worker)

    def set_aside(self, latent: Latent, now: float) -> None:
        """The latent is not to run for now; a worker that holds it goes on to do so."""
        self.backlog.remove(latent)
        self._policy.forget(latent, now)
        self.concern_holder(latent)

    def lose(self, worker: Worker) -> None:
        """The worker is gone; its latents are the caller's."""
        self._policy.lose(worker)

    def serve(self, worker: Worker, now: float) -> None:
        """The worker takes latents of other models than before."""
        self._policy.serve(worker, now)
        self.concern(worker)

    def observe(self, worker: Worker, stepped: Collection[LatentId], boundary: float, now: float) -> None:
        """The worker reported how far it had stepped these latents by this boundary."""
        if worker.confirmed == worker.number and stepped:
            self._policy.observe(worker, stepped, boundary, now)
        self.concern(worker)

    def hopeless(self) -> list[Job]:
        """The jobs that the policy has given up since the last time."""
        jobs, self._hopeless = list(self._hopeless.values()), {}
        self._concerned |= self._undecided
        self._undecided.clear()
        return jobs

    def concern(self, worker: Worker) -> None:
        """Something changed for this worker."""
        self._concerned[worker.peer] = worker

    def concern_holder(self, latent: Latent) -> None:
        """Something changed for the worker that holds this latent, if one does."""
        if latent.worker is not None:
            self.concern(self._fleet.workers[latent.worker])

    def settle(self, now: float) -> None:
        """Decides anew for all workers that are concerned."""
        for worker in self._policy.prepare(now):
            self.concern(worker)
        for worker in self._fleet.workers.values():
            if worker.wake is not None and worker.wake <= now:
                self.concern(worker)
        while self._concerned or self._arrived:
            while self._concerned:
                _, worker = self._concerned.popitem()
                if self._fleet.workers.get(worker.peer) is worker:
                    self._decide(worker, now, _UNSHARED)
            if self._arrived:
                (model, key), _ = self._arrived.popitem()
                self._share_out(model, key, now)

    def resend(self, worker: Worker) -> None:
        """Says the last membership again, if there is one the worker has not confirmed."""
        if worker.wish is not None:
            self._send(worker, worker.wish)

    def renew(self, worker: Worker) -> None:
        """The next membership is sent even if it equals the last one."""
        worker.wish = None
        self.concern(worker)

    def wake(self) -> float | None:
        """When a policy wants to be asked again."""
        return min((worker.wake for worker in self._fleet.workers.values() if worker.wake is not None), default=None)

    def start_over(self, jobs: Iterable[Job]) -> None:
        """Nothing waits, is held or planned any more: the caller goes on to say of each latent, by `enqueue` or `hold`."""
        self.backlog.clear()
        self._policy.start_over(jobs)
        for worker in self._fleet.workers.values():
            worker.held.clear()
            self.renew(worker)

    def hold(self, latent: Latent) -> bool:
        """Whether the worker that the latent names is alive; then it holds it."""
        worker = self._fleet.workers.get(latent.worker) if latent.worker is not None else None
        if worker is not None:
            worker.held[latent.id] = latent
        return worker is not None

    def _share_out(self, model: str, key: str, now: float) -> None:
        while waiting := self.backlog.count(model, key):
            head = self.backlog.first(model, key, 1)[0]
            ready = [worker for worker in self._fleet.with_model(model) if self._policy.concerns(worker, head)]
            ready.sort(key=lambda worker: len(worker.running))
            level = -(-(sum(len(worker.running) for worker in ready) + waiting) // max(1, len(ready)))
            for worker in ready:
                if (share := level - len(worker.running)) > 0:
                    self._decide(worker, now, share)
            if self.backlog.count(model, key) == waiting:
                return

    def _decide(self, worker: Worker, now: float, share: int) -> None:
        choice = self._policy.choose(worker, Situation(self.backlog, self._costs, now), share)
        if choice.hopeless:
            self._hopeless.update((job.id, job) for job in choice.hopeless)
            self._undecided[worker.peer] = worker
            return
        for latent in choice.running:
            self._place(latent, worker)
        worker.running, worker.wake = choice.running, choice.wake
        running = tuple(latent.id for latent in choice.running)
        chosen = set(running)
        wish = running, choice.caps, tuple(latent_id for latent_id in worker.held if latent_id not in chosen)
        if wish != worker.wish:
            self._number += 1
            worker.number = self._number
            worker.after = choice.after
            self._send(worker, wish)

    def _place(self, latent: Latent, worker: Worker) -> None:
        if latent.worker == worker.peer:
            return
        if latent.worker is None:
            self.backlog.remove(latent)
        else:
            holder = self._fleet.workers[latent.worker]
            holder.release(latent)
            self.concern(holder)
        worker.take(latent)

    def _send(self, worker: Worker, wish: Wish) -> None:
        worker.wish = wish
        for latent in worker.held.values():
            latent.since = latent.since or worker.number
        self._outbox.add(
            TellWorker(
                worker.peer,
                Membership(
                    scheduler=self._incarnation,
                    worker=worker.incarnation,
                    number=worker.number,
                    running=wish[0],
                    caps=wish[1],
                    parked=wish[2],
                    after=worker.after,
                    orders=self._orders(worker),
                ),
            )
        )

    def _orders(self, worker: Worker) -> tuple[JobOrder, ...]:
        jobs = {latent.id.job: latent.job for latent in worker.held.values()}
        worker.known &= jobs.keys()
        worker.carried = {job: worker.carried.get(job, worker.number) for job in jobs if job not in worker.known}
        return tuple(
            JobOrder(job, jobs[job].spec.parameters, jobs[job].spec.preview_interval) for job in worker.carried
        )
