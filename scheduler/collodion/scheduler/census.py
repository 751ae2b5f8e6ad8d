"""How many of everything there are, for metrics."""

from collections import Counter
from dataclasses import dataclass

from collodion.scheduler.book import JobBook
from collodion.scheduler.cost_model import CostModel
from collodion.scheduler.fleet import Fleet
from collodion.scheduler.transitions import JOB_ENDS
from collodion.wire.jobs import JobState, Residency, Stage

_DEVICE_KINDS = 32  # said at most; a fleet of more is none


@dataclass(frozen=True, slots=True)
class Census:
    """Counts at one moment. Latents are those of unfinished jobs.

    Queued latents are held by no worker: they wait in the backlog, or, if they are promised, in the line of one. `work_s` is the device
    time that unfinished jobs take in all, in the best of company, over the number of workers; `margins` are the largest of each
    kind of device. Copies are counted once for each worker that has, or could have, the model.
    """

    jobs: Counter[JobState]
    promised_jobs: int
    latents: Counter[Stage]
    queued_latents: int
    promised_queued_latents: int
    work_s: float
    workers: int
    frontends: int
    margins: dict[str, float]
    copies: Counter[Residency]
    waiting_models: int


def census(book: JobBook, fleet: Fleet, costs: CostModel, frontends: int, waiting_models: int) -> Census:
    """Counts; O(number of unfinished latents)."""
    stages = Counter(dict.fromkeys(Stage, 0))  # a stage that nothing is in any more has to be shown as 0
    queued = promised = 0
    for job in book.live.values():
        for latent in job.latents:
            stages[latent.stage] += 1
            if latent.worker is None and (latent.ticket or latent.planned is not None):
                queued += 1
                promised += job.promised
    return Census(
        jobs=Counter({state: book.states[state] for state in JobState if state not in JOB_ENDS}),
        promised_jobs=sum(job.promised for job in book.live.values()),
        latents=stages,
        queued_latents=queued,
        promised_queued_latents=promised,
        work_s=sum(book.work_s_of_tenant.values()) / max(1, len(fleet.workers)),
        workers=len(fleet.workers),
        frontends=frontends,
        margins=_margins(fleet, costs),
        copies=_copies(fleet),
        waiting_models=waiting_models,
    )


def _margins(fleet: Fleet, costs: CostModel) -> dict[str, float]:
    kinds = sorted({worker.device_kind for worker in fleet.workers.values()})[:_DEVICE_KINDS]
    largest: dict[str, float] = {}
    for device, _, errors in costs.errors():
        if device in kinds:
            largest[device] = max(largest.get(device, 0.0), errors.margin)
    return largest


def _copies(fleet: Fleet) -> Counter[Residency]:
    counts = Counter(dict.fromkeys(Residency, 0))
    for worker in fleet.workers.values():
        counts.update(status.residency for status in worker.statuses.values())
    return counts
