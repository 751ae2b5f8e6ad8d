"""A latent and its job as a worker knows them.

The device thread and, once a picture is decoded, the thread that stores it write; the link reads at any moment. So `stage` is always
written last: who reads DONE finds the image, who reads STOPPED the failure.
"""

from dataclasses import dataclass, field
from typing import Any

from collodion.wire.jobs import Failure, LatentId, Stage, StoredImage
from collodion.wire.to_scheduler import LatentReport
from collodion.wire.to_worker import JobOrder
from collodion.worker.pipeline import AnyPipeline, Plan

ENDED = frozenset({Stage.DONE, Stage.STOPPED})
_PAST_STEPS = ENDED | {Stage.DECODING}


@dataclass(eq=False)
class WorkerJob:
    """What is common to a job's latents here. `plan` and `failure` are set by the thread that prepares.

    `pipeline` is its model's while that is resident, and `rows` how many rows of a model call one of its latents then takes.
    """

    order: JobOrder
    pipeline: AnyPipeline | None = None
    key: str = field(init=False)
    rows: int = field(init=False, default=1)
    plan: Plan | None = None
    conditioning: Any = None
    failure: Failure | None = None

    def __post_init__(self) -> None:
        self.key = self.order.parameters.batch_key
        if self.pipeline is not None:
            self.take(self.pipeline)

    def take(self, pipeline: AnyPipeline) -> None:
        """Its model is resident."""
        self.rows = pipeline.info.rows_of(self.order.parameters)
        self.pipeline = pipeline

    @property
    def job_id(self) -> str:
        """The job's own."""
        return self.order.job

    @property
    def model(self) -> str:
        """The name of its model."""
        return self.order.parameters.model

    @property
    def loaded(self) -> AnyPipeline:
        """The pipeline of a job that has a plan."""
        assert self.pipeline is not None
        return self.pipeline


@dataclass(eq=False, slots=True)
class Latent:
    """One image in the making. `state` is the family's own, from the first step to the decoding.

    `cap` bounds the window that it leads; None: only the worker does. `spilled_bytes` is how much of the device's memory its
    state would take while it lies on the host; 0: it does not.
    """

    id: LatentId
    job: WorkerJob
    stage: Stage = Stage.WAITING
    cap: int | None = None
    evaluations: int = 0
    steps: int = 0
    course: tuple[int, ...] = ()
    state: Any = None
    spilled_bytes: int = 0
    image: StoredImage | None = None
    failure: Failure | None = None
    dropped: bool = False
    preview_pending: bool = False

    @property
    def job_id(self) -> str:
        """Its job's."""
        return self.id.job

    @property
    def seed(self) -> int:
        """The image's own."""
        return self.job.order.parameters.seed + self.id.image

    @property
    def to_go(self) -> bool:
        """Whether it is held and has evaluations to go."""
        return self.stage not in _PAST_STEPS and not self.dropped

    @property
    def is_decoded(self) -> bool:
        """Whether nothing more is to be done for it on the device."""
        return self.stage not in (Stage.WAITING, Stage.ENCODING, Stage.DENOISING, Stage.PARKED) and self.state is None

    def begin(self, plan: Plan, state: Any) -> None:
        """Noted before its first evaluation."""
        self.course, self.state = plan.course, state
        self.stage = Stage.DENOISING

    def advance(self) -> bool:
        """Counts one evaluation; whether it was the last."""
        self.evaluations += 1
        self.steps = self.course[self.evaluations]
        return self.evaluations == len(self.course) - 1

    @property
    def preview_due(self) -> bool:
        """Whether the last evaluation ended a step after which a preview is wanted."""
        if self.stage is not Stage.DENOISING or not self.evaluations:
            return False
        done_before = self.course[self.evaluations - 1]
        return self.steps != done_before and self.steps % self.job.order.preview_interval == 0

    def finish(self, image: StoredImage) -> None:
        """Its picture is stored."""
        self.image = image
        self.stage = Stage.DONE

    def free(self) -> None:
        """Gives back its memory."""
        self.state, self.spilled_bytes = None, 0

    def fail(self, failure: Failure) -> None:
        """It came to nothing; its memory is freed."""
        self.free()
        self.failure = failure
        self.stage = Stage.STOPPED

    def report(self) -> LatentReport:
        """As the scheduler is told."""
        stage = self.stage  # read first: see the module's rule
        plan = self.job.plan
        return LatentReport(
            id=self.id,
            stage=stage,
            evaluations=self.evaluations,
            steps=self.steps,
            image=self.image if stage is Stage.DONE else None,
            failure=self.failure if stage is Stage.STOPPED else None,
            warnings=plan.warnings if plan else (),
        )
