"""When a job will be finished, as well as can be told.

What is in a worker's line is finished when the plan says. The rest is an estimate: a latent that runs goes on at the pace of its batch; one
that waits or is parked is taken to wait until all that waits before it, supposed to be like itself, has run in full batches on every worker
that has its model; and before that, until the model is there.
"""

from collodion.scheduler.backlog import Backlog
from collodion.scheduler.cost_model import DECODE, STEP, CostModel
from collodion.scheduler.fleet import Fleet, Worker
from collodion.scheduler.job import Job, Latent
from collodion.scheduler.policy import Policy
from collodion.scheduler.residency import ResidencyRule
from collodion.wire.jobs import Stage


class Prediction:
    """Predicts from what is known now."""

    def __init__(
        self, fleet: Fleet, backlog: Backlog, costs: CostModel, policy: Policy, residency: ResidencyRule
    ) -> None:
        self._fleet = fleet
        self._backlog = backlog
        self._costs = costs
        self._policy = policy
        self._residency = residency
        self._last: tuple[Job | None, float, float | None] = (None, 0.0, None)

    def finish(self, job: Job, now: float) -> float | None:
        """Unix seconds; None while the model's cost is unknown, nobody can run it, or it is set aside."""
        # A report that brings news of all images of a job asks once for each of them: one answer will do.
        if self._last[0] is not job or self._last[1] != now:
            self._last = (job, now, self._policy.finish(job) or self._finish(job, now))
        return self._last[2]

    def _finish(self, job: Job, now: float) -> float | None:
        latest = now
        for latent in job.unfinished():
            remaining, begins = self._remaining_s(latent), self._begins(latent, now)
            if remaining is None or begins is None:
                return None
            latest = max(latest, begins + remaining)
        return latest

    def _begins(self, latent: Latent, now: float) -> float | None:
        if latent.worker is not None:
            return now
        if self._fleet.has_taker(latent.model):
            return self._policy.busy_until(latent.job, now)
        ready_s = self._residency.ready_in(latent.model)
        return None if ready_s is None else now + ready_s

    def _remaining_s(self, latent: Latent) -> float | None:
        peer = latent.worker
        worker = next(iter(self._takers(latent.model)), None) if peer is None else self._fleet.workers.get(peer)
        if worker is None:
            return None
        job, device = latent.job, worker.device_kind
        decode = self._costs.seconds(device, DECODE, job.key, 1) or 0.0
        if latent.stage is Stage.DECODING:
            return decode
        batch = min(worker.cap, len(worker.running)) if latent in worker.running else 0
        step = self._costs.seconds(device, STEP, job.key, max(1, batch) * job.rows)
        queue = 0.0 if batch else self._queue_s(latent)
        if step is None or queue is None or not latent.runnable:
            return None
        return queue + latent.evaluations_left * step + decode

    def _queue_s(self, latent: Latent) -> float | None:
        workers = self._takers(latent.model)
        batch = sum(worker.cap for worker in workers)
        if batch < 1:
            return None
        per_worker = max(1, batch // len(workers))
        step = self._costs.seconds(workers[0].device_kind, STEP, latent.job.key, per_worker * latent.job.rows)
        waves = self._backlog.count(latent.model) // batch
        return None if step is None else waves * step * latent.job.evaluations

    def _takers(self, model: str) -> list[Worker]:
        """The workers that take its latents; until there is one, those that could."""
        return self._fleet.with_model(model) or self._fleet.knowing(model)
