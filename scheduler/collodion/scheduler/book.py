"""Every job there is, unfinished or ended, by all that it is asked for by.

1. All indexes change here, together with what they index; a job changes state through `enter` alone.
2. Ids ascend with time, so sorted lists of ids are lists by age.
3. Ended jobs are forgotten by age and number, the oldest first.
"""

from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Iterator

from collodion.scheduler.job import Job
from collodion.scheduler.transitions import JOB_ENDS
from collodion.scheduler.views import Standing
from collodion.wire.jobs import JobSpec, JobState

_RequestKey = tuple[str, str]


class JobBook:
    """The jobs of one scheduler."""

    def __init__(self) -> None:
        self.live: dict[str, Job] = {}
        self.ended: OrderedDict[str, Standing] = OrderedDict()
        self.live_of_tenant: Counter[str] = Counter()
        self.states: Counter[JobState] = Counter()
        self._queued: list[str] = []
        self._requests: dict[_RequestKey, str] = {}
        self._of_tenant: dict[str, list[str]] = {}

    def add(self, job: Job) -> None:
        """Enters a new, queued job."""
        self.live[job.id] = job
        self.live_of_tenant[job.spec.tenant] += 1
        self.states[job.state] += 1
        if job.state is JobState.QUEUED:
            insort(self._queued, job.id)
        if job.spec.request_id:
            self._requests[_request_key(job.spec)] = job.id
        insort(self._of_tenant.setdefault(job.spec.tenant, []), job.id)

    def enter(self, job: Job, state: JobState) -> None:
        """The job goes to another state. Raises IllegalTransition, and then nothing has changed."""
        before = job.state
        job.enter(state)
        self.states[before] -= 1
        if before is JobState.QUEUED:
            _discard(self._queued, job.id)
        if state in JOB_ENDS:
            return
        self.states[state] += 1
        if state is JobState.QUEUED:
            insort(self._queued, job.id)

    def close(self, job: Job, standing: Standing) -> None:
        """The job has ended; `standing` is what remains of it."""
        del self.live[job.id]
        self.ended[job.id] = standing
        self.live_of_tenant[job.spec.tenant] -= 1
        if not self.live_of_tenant[job.spec.tenant]:
            del self.live_of_tenant[job.spec.tenant]

    def forget_ended(self, before: float, keep: int) -> Iterator[str]:
        """Forgets jobs that ended before a time, and the oldest beyond `keep`; yields their ids."""
        while self.ended:
            job_id, standing = next(iter(self.ended.items()))
            if len(self.ended) <= keep and (standing.view.ended or 0.0) >= before:
                return
            self._forget(job_id, standing.view.spec)
            yield job_id

    def place(self, job: Job) -> int:
        """How many jobs were accepted before it and wait for their first step; 0 once it runs."""
        return bisect_left(self._queued, job.id) if job.state is JobState.QUEUED else 0

    def of_request(self, spec: JobSpec) -> str | None:
        """The job that this tenant's request id stands for."""
        return self._requests.get(_request_key(spec)) if spec.request_id else None

    def spec(self, job_id: str) -> JobSpec | None:
        """What the job is; None if there is no such job."""
        if job_id in self.live:
            return self.live[job_id].spec
        return self.ended[job_id].view.spec if job_id in self.ended else None

    def of_tenant_before(self, tenant: str, before: str) -> Iterator[str]:
        """The tenant's jobs, newest first, those older than `before` (an id; empty: all)."""
        ids = self._of_tenant.get(tenant, [])
        start = bisect_left(ids, before) if before else len(ids)
        return (ids[index] for index in range(start - 1, -1, -1))

    def recount(self) -> None:
        """Makes what is derived from the unfinished jobs anew."""
        jobs = self.live.values()
        self._queued = sorted(job.id for job in jobs if job.state is JobState.QUEUED)
        self.states = Counter(job.state for job in jobs)
        self.live_of_tenant = Counter(job.spec.tenant for job in jobs)

    def _forget(self, job_id: str, spec: JobSpec) -> None:
        del self.ended[job_id]
        self._requests.pop(_request_key(spec), None)
        ids = self._of_tenant[spec.tenant]
        _discard(ids, job_id)
        if not ids:
            del self._of_tenant[spec.tenant]


def _request_key(spec: JobSpec) -> _RequestKey:
    return spec.tenant, spec.request_id


def _discard(ids: list[str], job_id: str) -> None:
    index = bisect_left(ids, job_id)
    if index < len(ids) and ids[index] == job_id:
        del ids[index]
