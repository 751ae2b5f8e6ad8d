"""What a client says to ask for a request of a workload, and what it writes down of what it hears: no I/O here.

Used by the asyncio driver and by the Locust file alike.
"""

import dataclasses
import datetime
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from collodion.client import (
    Accepted,
    Cancelled,
    CollodionError,
    DeadlineInfeasible,
    Event,
    Failed,
    Finished,
    ServerBusy,
)
from collodion.client.requests import JobOptions
from collodion.wire.jobs import DeadlinePolicy
from simulation.instance import Request
from simulation.ledger import Outcome, Record
from simulation.models import parts_of

PROMPT = "a large red circle on a blue background"
_SAMPLER = "ddim"  # one model call a step
_SEEDS = 1_000_003  # so that no two requests of a study ask for the same picture


@dataclass(frozen=True, slots=True)
class Wish:
    """What all requests of a run have in common: what becomes of a deadline that cannot be promised, and where their seeds begin."""

    deadline_policy: DeadlinePolicy = DeadlinePolicy.REFUSE
    min_steps: int = 1
    seed: int = 0

    def options(self, index: int, request: Request) -> JobOptions:
        """What to say beside the prompt."""
        model, width, height = parts_of(request.key)
        options: JobOptions = {
            "model": model,
            "width": width,
            "height": height,
            "steps": request.evaluations,
            "images": request.images,
            "sampler": _SAMPLER,
            "seed": self.seed * _SEEDS + index,
            "tier": request.tier,
            "deadline_policy": self.deadline_policy.value,
            "labels": {"request": str(index)},
        }
        if self.deadline_policy is DeadlinePolicy.DEGRADE:
            options["min_steps"] = min(self.min_steps, request.evaluations)
        if request.slo_s is not None:
            options["slo_s"] = request.slo_s
        return options


def undated(requests: Sequence[Request]) -> tuple[Request, ...]:
    """Without SLOs of their own: their tier's holds."""
    return tuple(dataclasses.replace(each, deadline=math.inf) for each in requests)


@dataclass(slots=True)
class Reply:
    """What came of one request, as events and errors tell it; `now` is the clock, in seconds since the run's zero.

    `sent` and `answered` (accepted or refused) are such seconds; `offers`: a refusal came with an offer.
    """

    request: Request
    record: Record
    now: Callable[[], float]
    sent: float = 0.0
    answered: float | None = None
    offers: bool = False

    @property
    def answer_s(self) -> float | None:
        """From sending to acceptance or refusal."""
        return None if self.answered is None else self.answered - self.sent

    def hear(self, event: Event) -> None:
        """The next event of its stream."""
        record = self.record
        match event:
            case Accepted(job=job):
                self.answered = self.now()
                record.job, record.promised, record.evaluations = job.job_id, job.promised, job.parameters.steps
                if job.predicted_finish_time is not None:
                    ahead = job.predicted_finish_time - datetime.datetime.now(datetime.UTC)
                    record.predicted = self.now() + ahead.total_seconds()
            case Finished(deadline_met=met):
                record.outcome, record.finish, record.on_time = Outcome.FINISHED, self.now(), bool(met)
            case Failed(failure=failure):
                record.outcome, record.reason = Outcome.FAILED, failure.reason
            case Cancelled():
                record.outcome = Outcome.CANCELLED

    def failed(self, error: CollodionError) -> None:
        """Its stream ended with an error."""
        refused = isinstance(error, ServerBusy)
        self.record.outcome = Outcome.REFUSED if refused else Outcome.FAILED
        self.record.reason = error.reason or type(error).__name__
        if refused:
            self.answered = self.now()
        self.offers = isinstance(error, DeadlineInfeasible) and error.offer.finish_time is not None
