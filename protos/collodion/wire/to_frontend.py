"""What a frontend hears: answers to its calls, events of the jobs it watches, the models there are."""

from collodion.wire.jobs import (
    AdapterInfo,
    Failure,
    JobSpec,
    JobState,
    Message,
    ModelInfo,
    ModelStatus,
    Reason,
    Stage,
    StoredImage,
)
from collodion.wire.to_worker import SchedulerBeat


class Timings(Message, frozen=True):
    """Where the time of a job went, in seconds."""

    queued_s: float
    running_s: float
    parked_s: float
    total_s: float


class ImageProgress(Message, frozen=True):
    """How far one image is: steps done of `steps` asked for."""

    index: int
    stage: Stage
    step: int
    steps: int


class Explanation(Message, frozen=True):
    """Why a job is not finished sooner: one sentence on what it waits for, and what would let it finish sooner."""

    summary: str
    remedies: tuple[str, ...] = ()


class JobView(Message, frozen=True):
    """A job as it stands. Times are Unix seconds. `promised`: whether its deadline was promised, and is still."""

    job: str
    spec: JobSpec
    state: JobState
    created: float
    place: int
    progress: tuple[ImageProgress, ...]
    images: tuple[StoredImage, ...]
    deadline: float | None = None
    predicted_finish: float | None = None
    ended: float | None = None
    failure: Failure | None = None
    timings: Timings | None = None
    deadline_met: bool | None = None
    promised: bool = False
    explanation: Explanation | None = None


class Accepted(Message, frozen=True):
    """The job as it stands: the first event of a watching call."""

    view: JobView


class Warned(Message, frozen=True):
    """Not fatal: something could not be honoured to the letter."""

    reason: str
    message: str


class StageChanged(Message, frozen=True):
    """An image entered another stage."""

    index: int
    stage: Stage


class Progressed(Message, frozen=True):
    """An image is a step further. May be coalesced."""

    index: int
    step: int
    steps: int
    predicted_finish: float | None = None


class Previewed(Message, frozen=True):
    """The encoded preview rides as the next, opaque frame. May be coalesced."""

    index: int
    step: int
    mime_type: str


class ImageStored(Message, frozen=True):
    """A picture is in the artifact store."""

    image: StoredImage


class ImageFailed(Message, frozen=True):
    """An image failed; the others go on."""

    index: int
    failure: Failure


class Ended(Message, frozen=True):
    """The last event of a watching call: the state is FINISHED, FAILED (with `failure`) or CANCELLED (with `failure` saying by whom)."""

    state: JobState
    timings: Timings
    failure: Failure | None = None
    deadline_met: bool | None = None


Event = Accepted | Warned | StageChanged | Progressed | Previewed | ImageStored | ImageFailed | Ended


class JobEvent(Message, frozen=True):
    """What happened to a job, for these calls of this frontend."""

    calls: tuple[int, ...]
    job: str
    time: float
    event: Event


class JobAnswer(Message, frozen=True):
    """The answer to SubmitJob without watching, GetJob and CancelJob."""

    call: int
    view: JobView


class JobsAnswer(Message, frozen=True):
    """The answer to ListJobs; `next` goes into `before` of the next page, empty on the last."""

    call: int
    views: tuple[JobView, ...]
    next: str = ""


class CounterOffer(Message, frozen=True):
    """What could be promised instead of a refused request; each on its own, and only at the moment of the answer.

    `finish` is when it would be done as asked (Unix seconds), `steps` how many could be done by its deadline, `tier` the
    first whose deadline could be met.
    """

    finish: float | None = None
    steps: int | None = None
    tier: str | None = None


class Refused(Message, frozen=True):
    """This call is answered by an error, or its stream ends with one."""

    call: int
    reason: Reason
    message: str
    retry_after_s: float | None = None
    offer: CounterOffer | None = None


class TierInfo(Message, frozen=True):
    """A class of service. Its default SLO is `slo_s` seconds or `slo_scale` times a job's standalone time; neither: it promises nothing.

    `weight` is what one of its jobs finished on time is worth beside one of another tier.
    """

    name: str
    slo_s: float | None = None
    slo_scale: float | None = None
    weight: float = 1.0


class ModelAnswer(Message, frozen=True):
    """The answer to LoadModel and UnloadModel."""

    call: int
    status: ModelStatus


class Catalogue(Message, frozen=True):
    """What can be asked for: models by name with how many workers have each in memory, tiers and adapters. Sent when it changes, and to
    a new frontend.

    `statuses` say of each model where it is, taken over all workers: resident if one has it, else loading, else on disk, else failed.
    """

    models: tuple[tuple[ModelInfo, int], ...]
    tiers: tuple[TierInfo, ...]
    default_model: str
    default_tier: str
    statuses: tuple[ModelStatus, ...] = ()
    adapters: tuple[AdapterInfo, ...] = ()


ToFrontend = SchedulerBeat | JobEvent | JobAnswer | JobsAnswer | ModelAnswer | Refused | Catalogue
