"""Makes jobs ready off the device thread: tokenizing, and probing a sampler's table, which may take a second.

1. It begins when the link hears of an order, and not when the device thread comes to it at the next boundary: so a newcomer
   is ready by then, and joins one step sooner.
2. A job whose model is not resident is left as it is; it is prepared when the model is there (`again`).
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from collodion.wire.jobs import Failure, Reason
from collodion.wire.to_worker import JobOrder
from collodion.worker.faults import failure_of
from collodion.worker.latent import WorkerJob
from collodion.worker.residency import Residents


class Preparer:
    """Makes a job of each order, sets its `plan` or `failure` on a thread of its own, then calls `on_ready`."""

    def __init__(self, models: Residents, on_ready: Callable[[], None]) -> None:
        self._models = models
        self._on_ready = on_ready
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._lock = threading.Lock()
        self._expected: dict[str, WorkerJob] = {}

    def expect(self, orders: Iterable[JobOrder]) -> None:
        """Begins with the jobs of the newest membership, and forgets those of the one before. Returns at once."""
        with self._lock:
            self._expected = {order.job: self._known(order) or self._begin(order) for order in orders}

    def job(self, order: JobOrder) -> WorkerJob:
        """The job of this order, ready or not. Returns at once. Device thread only."""
        with self._lock:
            job = self._known(order)
            # What was prepared for a model that has left since is of no use, though it may be back.
            stale = job is not None and job.pipeline is not None and not self._models.is_current(job)
            if job is None or stale:
                return self._begin(order)
        if job.pipeline is None:  # its model may have come since it was looked for
            self.again(job)
        return job

    def again(self, job: WorkerJob) -> None:
        """Its model, which it lacked, is resident now. Returns at once."""
        self._pool.submit(self._prepare, job)

    def close(self) -> None:
        """Forgets what is still waiting."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _known(self, order: JobOrder) -> WorkerJob | None:
        job = self._expected.get(order.job)
        return job if job is not None and job.order == order else None

    def _begin(self, order: JobOrder) -> WorkerJob:
        job = WorkerJob(order)
        self._pool.submit(self._prepare, job)
        return job

    def _prepare(self, job: WorkerJob) -> None:
        if job.plan is not None or job.failure is not None:
            return
        self._models.equip(job)
        if job.pipeline is None and self._models.knows(job.model):
            return
        prepare(job)
        self._on_ready()


def prepare(job: WorkerJob) -> WorkerJob:
    """Sets the job's `plan` or `failure`."""
    parameters = job.order.parameters
    if job.pipeline is None:
        message = f"this worker has no model {parameters.model!r}"
        job.failure = Failure(reason=Reason.WORKER_ERROR, message=message)
        return job
    try:
        job.plan = job.pipeline.prepare(parameters)
    except Exception as error:  # foreign code on a client's words: this job's failure and nobody else's
        job.failure = failure_of(error, job.job_id)
    return job
