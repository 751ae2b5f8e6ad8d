"""One page of a tenant's jobs.

A page ends early, with a token to go on from, where it would take too long to find its jobs or too many bytes to say them: a
prompt may have 10,000 characters, and a gRPC message has 4 MiB by default.
"""

from collodion.scheduler.book import JobBook
from collodion.scheduler.lifecycle import Lifecycle
from collodion.wire.jobs import JobSpec
from collodion.wire.to_frontend import JobsAnswer, JobView
from collodion.wire.to_scheduler import ListJobs

_PAGE_BYTES = 3 * 1024 * 1024
_JOBS_LOOKED_AT = 2_000
_IMAGE_BYTES = 400  # of one image's progress, digest and key; generous
_JOB_BYTES = 1_000


def page(asked: ListJobs, book: JobBook, lifecycle: Lifecycle, now: float) -> JobsAnswer:
    """The tenant's jobs that match, newest first; `next` is the last job looked at, unless there are no more."""
    views: list[JobView] = []
    left = _PAGE_BYTES
    last = ""
    for looked_at, job_id in enumerate(book.of_tenant_before(asked.tenant, asked.before)):
        if len(views) >= max(1, asked.page_size) or looked_at >= _JOBS_LOOKED_AT or left < 0:
            return JobsAnswer(asked.call, tuple(views), next=last)
        last = job_id
        shown = lifecycle.standing(job_id, now) if _carries(book.spec(job_id), asked.labels) else None
        if shown is not None and (not asked.states or shown.view.state in asked.states):
            views.append(shown.view)
            left -= _size(shown.view.spec)
    return JobsAnswer(asked.call, tuple(views))


def _carries(spec: JobSpec | None, labels: dict[str, str]) -> bool:
    return spec is not None and labels.items() <= spec.labels.items()


def _size(spec: JobSpec) -> int:
    asked = spec.parameters
    texts = (asked.prompt, asked.negative_prompt, *spec.labels.keys(), *spec.labels.values())
    return _JOB_BYTES + asked.images * _IMAGE_BYTES + sum(len(text.encode(errors="replace")) for text in texts)
