"""What the scheduler hears: from frontends calls, from workers their state and reports."""

import msgspec

from collodion.wire.jobs import (
    AdapterInfo,
    Failure,
    JobSpec,
    JobState,
    LatentId,
    Message,
    ModelInfo,
    ModelStatus,
    Stage,
    StoredImage,
)

# ------------------------------------------------------------------ from frontends


class SubmitJob(Message, frozen=True):
    """Accept this job. `call` is the frontend's own number of the RPC; answers and events carry it."""

    call: int
    spec: JobSpec
    watch: bool


class WatchJob(Message, frozen=True):
    """Attach this call to a job: its present state first, then what happens."""

    call: int
    tenant: str
    job: str


class LeaveJob(Message, frozen=True):
    """The client of this watching call hung up."""

    call: int


class CancelJob(Message, frozen=True):
    """Cancel the job now; answered with its view."""

    call: int
    tenant: str
    job: str


class GetJob(Message, frozen=True):
    """Say how the job stands."""

    call: int
    tenant: str
    job: str


class ListJobs(Message, frozen=True):
    """List the tenant's jobs, newest first, those before `before` (a job id; empty: from the newest)."""

    call: int
    tenant: str
    page_size: int
    before: str = ""
    states: tuple[JobState, ...] = ()
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class LoadModel(Message, frozen=True):
    """Have the model in memory, on one worker at least, and keep it there; answered at once with how it stands."""

    call: int
    model: str


class UnloadModel(Message, frozen=True):
    """Give its memory back once nothing runs on it; answered at once with how it stands. A later request loads it again."""

    call: int
    model: str


class FrontendBeat(Message, frozen=True):
    """A frontend's whole state, every second: every watching call that is open. Calls it does not name are hung up."""

    incarnation: str
    watching: dict[int, str]


FromFrontend = SubmitJob | WatchJob | LeaveJob | CancelJob | GetJob | ListJobs | LoadModel | UnloadModel | FrontendBeat

# ------------------------------------------------------------------ from workers


class LatentReport(Message, frozen=True):
    """How far one latent is on this worker. Said again until a membership no longer names the latent.

    `evaluations` counts model calls done, `steps` steps as the user counts them. At stage DONE `image` is set, at
    STOPPED `failure`. `warnings` are (reason, message) pairs for the client.
    """

    id: LatentId
    stage: Stage
    evaluations: int = 0
    steps: int = 0
    image: StoredImage | None = None
    failure: Failure | None = None
    warnings: tuple[tuple[str, str], ...] = ()


class Lane(Message, frozen=True):
    """Seconds that one batch took on the device. `key` is the batch key.

    `lane` is step (`batch` counts rows of the model call), encode (jobs), decode (latents) or store (always 1: from a
    picture's decoding to its being stored, off the device).
    """

    lane: str
    key: str
    batch: int
    seconds: float


class WorkerState(Message, frozen=True):
    """A worker's whole state, every second and at its start: who it is, what it can do, every latent it holds.

    `scheduler` is the incarnation whose membership it last applied, `membership` that membership's number. `device_kind`
    is what devices of the same speed have in common. `encode_batch` and `decode_batch` bound its lanes' batches.
    `models` are all that it can run, and `statuses` say of each where it is; one without a status is resident. `model_bytes` is
    how much of its device's memory models may take in all, 0 if there is no bound. `wished` is the number of the last
    `ResidencyWish` that it took up.
    """

    incarnation: str
    name: str
    device: str
    models: tuple[ModelInfo, ...]
    max_batch: int
    max_resident: int
    scheduler: str
    membership: int
    latents: tuple[LatentReport, ...]
    device_kind: str = "cpu"
    encode_batch: int = 8
    decode_batch: int = 4
    statuses: tuple[ModelStatus, ...] = ()
    adapters: tuple[AdapterInfo, ...] = ()
    model_bytes: int = 0
    wished: int = 0


class WorkerReport(Message, frozen=True):
    """What changed on a worker since its last report, and what batches took. `missing` are jobs whose order it lacks.

    `age_s` is how long ago the boundary was up to which the running latents are as far as they are said to be.
    """

    incarnation: str
    scheduler: str
    membership: int
    latents: tuple[LatentReport, ...] = ()
    lanes: tuple[Lane, ...] = ()
    missing: tuple[str, ...] = ()
    age_s: float = 0.0


class PreviewMade(Message, frozen=True):
    """A small picture of a latent in the making; the encoded bytes ride as the next, opaque frame."""

    incarnation: str
    scheduler: str
    id: LatentId
    step: int
    mime_type: str


class WorkerLeft(Message, frozen=True):
    """A worker ends by its own will; its latents are to go elsewhere at once."""

    incarnation: str


FromWorker = WorkerState | WorkerReport | PreviewMade | WorkerLeft
