"""Every job there is, unfinished or ended, by all that it is asked for by.

1. All indexes change here, together with what they index; a job changes state through `enter` alone.
2. Ids ascend with time, so sorted lists of ids are lists by age.
3. Ended jobs are forgotten by age and number, the oldest first.
"""

from bisect import bisect_left, insort
from collections import Counter, OrderedDict, defaultdict
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
        self.work_s_of_tenant: dict[str, float] = defaultdict(float)
        self.states: Counter[JobState] = Counter()
        self._queued: list[str] = []
        self._requests: dict[_RequestKey, tuple[str, JobSpec]] = {}
        self._of_tenant: dict[str, list[str]] = {}

    def add(self, job: Job) -> None:
        """Enters a new, queued job."""
        self.live[job.id] = job
        self._count(job, 1)
        self.states[job.state] += 1
        if job.state is JobState.QUEUED:
            insort(self._queued, job.id)
        if job.spec.request_id:
            self._requests[_request_key(job.spec)] = job.id, job.spec
        insort(self._of_tenant.setdefault(job.spec.tenant, []), job.id)

    def uploads(self) -> set[str]:
        """Keys of the uploads that unfinished jobs begin from. May be called on any thread: it reads a copy, which is made in one go."""
        asked = [job.spec.parameters for job in tuple(self.live.values())]
        return {key for parameters in asked for key in (parameters.init_image, parameters.mask_image) if key}

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
        self._count(job, -1)

    def remove(self, job: Job) -> None:
        """The job was refused: it never was."""
        del self.live[job.id]
        self._count(job, -1)
        self.states[job.state] -= 1
        _discard(self._queued, job.id)
        self._unlist(job.id, job.spec)

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

    def of_request(self, spec: JobSpec) -> tuple[str, JobSpec] | None:
        """The job that this tenant's request id stands for, and what was asked for then."""
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
        self.work_s_of_tenant = defaultdict(float)
        for job in jobs:
            self.work_s_of_tenant[job.spec.tenant] += job.work_s

    def _forget(self, job_id: str, spec: JobSpec) -> None:
        del self.ended[job_id]
        self._unlist(job_id, spec)

    def _count(self, job: Job, change: int) -> None:
        tenant = job.spec.tenant
        self.live_of_tenant[tenant] += change
        self.work_s_of_tenant[tenant] += change * job.work_s
        if not self.live_of_tenant[tenant]:
            del self.live_of_tenant[tenant], self.work_s_of_tenant[tenant]

    def _unlist(self, job_id: str, spec: JobSpec) -> None:
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
