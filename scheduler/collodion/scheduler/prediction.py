"""When a job will be finished, as well as can be told from learned costs.

An estimate for clients, not a promise: a latent that runs goes on at the pace of its batch; one that waits or is parked is
taken to wait until all that waits before it, supposed to be like itself, has run in full batches on every worker that has its model.
"""

from collodion.scheduler.backlog import Backlog
from collodion.scheduler.cost import DECODE, STEP, CostTable
from collodion.scheduler.fleet import Fleet
from collodion.scheduler.job import Job, Latent
from collodion.wire.jobs import Stage


class Prediction:
    """Predicts from what is known now."""

    def __init__(self, fleet: Fleet, backlog: Backlog, costs: CostTable) -> None:
        self._fleet = fleet
        self._backlog = backlog
        self._costs = costs
        self._last: tuple[Job | None, float, float | None] = (None, 0.0, None)

    def finish(self, job: Job, now: float) -> float | None:
        """Unix seconds; None while the model's cost is unknown, nobody can run it, or it is set aside."""
        # A report that brings news of all images of a job asks once for each of them: one answer will do.
        if self._last[0] is not job or self._last[1] != now:
            self._last = (job, now, self._finish(job, now))
        return self._last[2]

    def _finish(self, job: Job, now: float) -> float | None:
        latest = now
        for latent in job.unfinished():
            remaining = self._remaining_s(latent)
            if remaining is None:
                return None
            latest = max(latest, now + remaining)
        return latest

    def _remaining_s(self, latent: Latent) -> float | None:
        decode = self._costs.seconds(DECODE, latent.job.key, 1) or 0.0
        if latent.stage is Stage.DECODING:
            return decode
        worker = self._fleet.workers.get(latent.worker) if latent.worker else None
        batch = len(worker.running) if worker is not None and latent in worker.running else 0
        step = self._costs.seconds(STEP, latent.job.key, batch or 1)
        queue = 0.0 if batch else self._queue_s(latent)
        if step is None or queue is None or not latent.runnable:
            return None
        return queue + _evaluations_left(latent) * step + decode

    def _queue_s(self, latent: Latent) -> float | None:
        workers = self._fleet.with_model(latent.model)
        batch = sum(worker.cap for worker in workers)
        if batch < 1:
            return None
        per_worker = max(1, batch // len(workers))
        step = self._costs.seconds(STEP, latent.job.key, per_worker)
        waves = self._backlog.count(latent.model) // batch
        return None if step is None else waves * step * latent.job.spec.parameters.steps


def _evaluations_left(latent: Latent) -> float:
    """Samplers of second order take more evaluations than steps; how many is seen from those that are done."""
    left = latent.job.spec.parameters.steps - latent.steps
    return left * (max(1.0, latent.evaluations / latent.steps) if latent.steps else 1.0)
