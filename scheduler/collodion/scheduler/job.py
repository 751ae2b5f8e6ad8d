"""A job and its latents: what is known of each. They change state through `enter` alone, which keeps to `transitions`.

1. A latent belongs to the backlog (it waits), to one worker (it is held), or has ended; never to two of them.
2. What a latent says of its progress holds for the worker it is on: another worker begins it anew, so progress goes back
   to zero when a worker is lost.
3. A job that has ended is no Job any more but a `Standing`, which does not change.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from collodion.scheduler.transitions import ACTIVE, JOB_TRANSITIONS, LATENT_ENDS, LATENT_TRANSITIONS, check
from collodion.wire.jobs import Failure, JobSpec, JobState, LatentId, ModelInfo, Stage, StoredImage

Rank = tuple[float, str, int]
"""Sorts latents in a policy's order, the first to run first; ends in job and image, so that no two are equal."""

LOSSES_ALLOWED = 2
"""So many workers may die while they run a latent; it fails with the next."""


@dataclass(slots=True, eq=False)
class Latent:
    """One image in the making.

    `worker` is the peer that holds it, `planned` the peer in whose line it is (it may not be held there yet), `since` the number of
    the first membership that named it there (0: none was sent yet), `losses` how many workers died while they ran it, `ticket` its
    valid entry in the backlog (0: it does not wait).
    """

    id: LatentId
    job: "Job"
    stage: Stage = Stage.WAITING
    evaluations: int = 0
    steps: int = 0
    previewed: int = 0
    worker: bytes | None = None
    planned: bytes | None = None
    since: int = 0
    losses: int = 0
    ticket: int = 0
    rank: Rank = (0.0, "", 0)
    image: StoredImage | None = None
    failure: Failure | None = None

    @property
    def key(self) -> str:
        """What it must share with others to share a model call: its batch key; a suspect shares with nobody."""
        return f"{self.job.key}#{self.id.job}/{self.id.image}" if self.suspect else self.job.key

    @property
    def suspect(self) -> bool:
        """Whether one more death ends it. It runs alone, so that no neighbour ends for what another one did."""
        return self.losses >= LOSSES_ALLOWED

    @property
    def model(self) -> str:
        """The model that draws it."""
        return self.job.spec.parameters.model

    @property
    def evaluations_left(self) -> int:
        """How many model calls it has to go; at least one until its worker says that it is past its last."""
        return max(1, self.job.evaluations - self.evaluations)

    @property
    def ended(self) -> bool:
        """Whether it is stored, failed or cancelled."""
        return self.stage in LATENT_ENDS

    @property
    def runnable(self) -> bool:
        """Whether a step batch may have it: it has steps to go and its job is not set aside."""
        return self.stage not in _PAST_STEPS and self.job.state is not JobState.PARKED

    def enter(self, stage: Stage, now: float) -> None:
        """Goes to another stage. Raises IllegalTransition."""
        check(LATENT_TRANSITIONS, self.stage, stage)
        before, self.stage = self.stage in ACTIVE, stage
        self.job.count_active((stage in ACTIVE) - before, now)


@dataclass(frozen=True, slots=True)
class Promise:
    """That a deadline will be kept: when it was given, and when the job was then thought to be finished (Unix seconds)."""

    given: float
    finish: float


_PAST_STEPS = LATENT_ENDS | {Stage.DECODING}


@dataclass(slots=True, eq=False)
class Job:
    """One accepted request that has not ended. Times are Unix seconds.

    `accepted` once it was judged; `acknowledged` once it is durable and clients may know of it; `parked_until` is the end of the
    grace while it is PARKED. `evaluations` and `rows` are those of each image. `work_s` is the device time that it takes in the best
    of company. `promised` while its deadline is one that has to be kept; `promise` is the last that was given, also once it is
    withdrawn. `running_s` sums the time up to `active_since` during which at least one latent was in a batch.
    """

    id: str
    spec: JobSpec
    created: float
    deadline: float | None
    key: str
    evaluations: int
    rows: int
    weight: float = 1.0
    work_s: float = 0.0
    promised: bool = False
    promise: Promise | None = None
    state: JobState = JobState.QUEUED
    accepted: bool = False
    acknowledged: bool = False
    parked_until: float | None = None
    begun: float | None = None
    active: int = 0
    active_since: float = 0.0
    running_s: float = 0.0
    failure: Failure | None = None
    warned: set[tuple[str, str]] = field(default_factory=set)
    answers_due: list[tuple[bytes, int]] = field(default_factory=list)
    latents: tuple[Latent, ...] = ()

    def enter(self, state: JobState) -> None:
        """Goes to another state. Raises IllegalTransition."""
        check(JOB_TRANSITIONS, self.state, state)
        self.state = state

    def take_steps(self, steps: int, evaluations: int) -> None:
        """Is to have other steps than were asked for. Only before anything ran."""
        parameters = msgspec.structs.replace(self.spec.parameters, steps=steps)
        self.spec = msgspec.structs.replace(self.spec, parameters=parameters)
        self.evaluations = evaluations

    def count_active(self, change: int, now: float) -> None:
        """One latent more or less is in a batch: starts and stops the job's clock."""
        if change > 0 and not self.active:
            self.active_since = now
            self.begun = now if self.begun is None else self.begun
        if change < 0 and self.active == 1:
            self.running_s += now - self.active_since
        self.active += change

    def due_state(self) -> JobState:
        """Where it stands, judged by its latents; CANCELLED and PARKED are not theirs to say."""
        if all(latent.ended for latent in self.latents):
            return JobState.FAILED if self.failure else JobState.FINISHED
        waits = all(latent.stage is Stage.WAITING for latent in self.latents)
        return JobState.QUEUED if waits else JobState.RUNNING

    def unfinished(self) -> Iterator[Latent]:
        """Its latents that have not ended."""
        return (latent for latent in self.latents if not latent.ended)


def new_job(job_id: str, spec: JobSpec, now: float, slo_s: float | None, info: ModelInfo, weight: float = 1.0) -> Job:
    """A queued job with its latents; `slo_s` and `weight` are those granted."""
    asked = spec.parameters
    job = Job(
        id=job_id,
        spec=spec,
        created=now,
        deadline=None if slo_s is None else now + slo_s,
        key=asked.batch_key,
        evaluations=info.evaluations_of(asked),
        rows=info.rows_of(asked),
        weight=weight,
    )
    job.latents = tuple(Latent(LatentId(job_id, image), job) for image in range(spec.parameters.images))
    return job
