"""What all our processes say of jobs: their parameters, their latents, how they end."""

import math
from enum import StrEnum
from itertools import count
from typing import NamedTuple

import msgspec


class Message(msgspec.Struct, frozen=True, tag=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of everything that crosses a process boundary."""


class LatentId(NamedTuple):
    """One image in the making: the job and the image's 0-based index in it."""

    job: str
    image: int

    def __str__(self) -> str:
        return f"{self.job}/{self.image}"


class JobState(StrEnum):
    """Where a job stands; the transitions are the scheduler's (`collodion.scheduler.transitions`)."""

    QUEUED = "queued"
    RUNNING = "running"
    PARKED = "parked"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Stage(StrEnum):
    """What an image in the making is going through, as told to clients."""

    WAITING = "waiting"
    ENCODING = "encoding"
    DENOISING = "denoising"
    PARKED = "parked"
    DECODING = "decoding"
    DONE = "done"
    STOPPED = "stopped"


class OutputFormat(StrEnum):
    """How a finished picture is stored."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def mime_type(self) -> str:
        """For example image/png."""
        return f"image/{self.value}"


class DeadlinePolicy(StrEnum):
    """What is to become of a job whose deadline cannot be promised."""

    BEST_EFFORT = "best_effort"
    DEGRADE = "degrade"
    REFUSE = "refuse"


class PromptSyntax(StrEnum):
    """How prompts are read."""

    PLAIN = "plain"
    WEIGHTED = "weighted"


class Residency(StrEnum):
    """Where a worker has a model."""

    RESIDENT = "resident"
    LOADING = "loading"
    ON_DISK = "on_disk"
    FAILED = "failed"


class AdapterKind(StrEnum):
    """What an adapter file holds: a sum of low-rank products, changes of whole matrices (LoHa, LoKr, …), or words for prompts."""

    LOW_RANK = "low_rank"
    WHOLE = "whole"
    EMBEDDING = "embedding"


class Reason(StrEnum):
    """Why something was refused or failed: the stable words of `ErrorInfo.reason` and `Failure.reason`."""

    INVALID_FIELDS = "INVALID_FIELDS"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    MODEL_UNUSABLE = "MODEL_UNUSABLE"
    MODEL_TOO_LARGE = "MODEL_TOO_LARGE"
    ADAPTER_NOT_FOUND = "ADAPTER_NOT_FOUND"
    ADAPTER_UNUSABLE = "ADAPTER_UNUSABLE"
    UPLOAD_LOST = "UPLOAD_LOST"
    IMAGE_NOT_FOUND = "IMAGE_NOT_FOUND"
    IMAGE_NOT_FINISHED = "IMAGE_NOT_FINISHED"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    QUEUE_FULL = "QUEUE_FULL"
    DEADLINE_INFEASIBLE = "DEADLINE_INFEASIBLE"
    HOPELESS = "HOPELESS"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"
    SCHEDULER_UNREACHABLE = "SCHEDULER_UNREACHABLE"
    SCHEDULER_RESTARTED = "SCHEDULER_RESTARTED"
    NO_WORKER = "NO_WORKER"
    DRAINING = "DRAINING"
    CANCELLED = "CANCELLED"
    NON_FINITE_LATENT = "NON_FINITE_LATENT"
    SAMPLER_REFUSED = "SAMPLER_REFUSED"
    WORKER_ERROR = "WORKER_ERROR"
    WORKER_LOST_REPEATEDLY = "WORKER_LOST_REPEATEDLY"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    ARTIFACT_NOT_STORED = "ARTIFACT_NOT_STORED"
    INTERNAL = "INTERNAL"


class Lora(Message, frozen=True):
    """An adapter and its strength. `whole`: it is no low-rank sum, so latents share a model call only with those that have it, too."""

    name: str
    scale: float = 1.0
    whole: bool = False


class Parameters(Message, frozen=True):
    """What determines the pictures of a job; every default is filled in by the frontend.

    `init_image` and `mask_image` are keys of the artifact store, empty for none; `strength` says how far to depart from the former.
    `step_cache` is the largest relative change of the model's first block for which the other blocks' last output is used again; 0: never.
    """

    model: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    sampler: str
    guidance_scale: float
    seed: int
    images: int
    output_format: OutputFormat = OutputFormat.PNG
    quality: int = 90
    loras: tuple[Lora, ...] = ()
    prompt_syntax: PromptSyntax = PromptSyntax.PLAIN
    init_image: str = ""
    mask_image: str = ""
    strength: float = 1.0
    step_cache: float = 0.0

    @property
    def skipped_steps(self) -> int:
        """Steps that a latent is spared that begins from a picture; counted as diffusers' image-to-image pipelines do."""
        return self.steps - min(int(self.steps * self.strength), self.steps) if self.init_image else 0

    @property
    def steps_run(self) -> int:
        """Steps that a latent takes."""
        return self.steps - self.skipped_steps

    @property
    def least_steps(self) -> int:
        """The fewest steps to ask for of which at least one is run."""
        if not self.init_image:
            return 1
        about = math.ceil(1 / self.strength)
        return next(steps for steps in count(max(1, about - 1)) if int(steps * self.strength) >= 1)

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance is on: two rows of the model call instead of one."""
        return self.guidance_scale > 1.0

    @property
    def batch_key(self) -> str:
        """What latents must have in common to share a model call."""
        whole = "".join(f"+{lora.name}:{lora.scale:g}" for lora in self.loras if lora.whole)
        return f"{self.model}/{self.width}x{self.height}{whole}"


class JobSpec(Message, frozen=True):
    """A validated request: what to draw, for whom, by when.

    `min_steps` is what DEGRADE may go down to; `slo_s` (seconds after acceptance) is the tier's if there is none.
    """

    parameters: Parameters
    tenant: str
    tier: str
    slo_s: float | None = None
    deadline_policy: DeadlinePolicy = DeadlinePolicy.BEST_EFFORT
    min_steps: int = 1
    detach: bool = False
    preview_interval: int = 0
    request_id: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class StoredImage(Message, frozen=True):
    """A picture that is in the artifact store. `key` names it there."""

    index: int
    seed: int
    key: str
    mime_type: str
    width: int
    height: int
    size_bytes: int
    sha256: str


class Failure(Message, frozen=True):
    """Why a job or a latent came to nothing."""

    reason: Reason
    message: str


class RefusedSampler(Message, frozen=True):
    """A sampler that a model cannot use, and why."""

    name: str
    reason: str


class ModelInfo(Message, frozen=True):
    """A model that a worker can run; what a request that leaves fields open gets. Sizes in pixels.

    `guided_rows` is how many rows of a model call a latent with guidance takes; one without takes one. `evaluations` says
    for samplers that do not make one model call a step how many they make: for n steps, n times the first, plus the second.
    `base` is the architecture that its adapters are made for, empty if it has no name. `init_images`, `masks`, `loras`,
    `weighted_prompts` and `step_cache` say what a request may ask of it.
    """

    name: str
    family: str
    native_width: int
    native_height: int
    min_size: int
    max_size: int
    size_multiple: int
    default_steps: int
    max_steps: int
    default_sampler: str
    samplers: tuple[str, ...]
    default_guidance_scale: float
    max_prompt_tokens: int
    dtype: str
    refused_samplers: tuple[RefusedSampler, ...] = ()
    license: str = ""
    guided_rows: int = 1
    evaluations: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict)
    base: str = ""
    init_images: bool = False
    masks: bool = False
    loras: bool = False
    weighted_prompts: bool = False
    step_cache: bool = False

    def evaluations_of(self, parameters: Parameters) -> int:
        """How many model calls a latent of these parameters takes."""
        per_step, extra = self.evaluations.get(parameters.sampler, (1, 0))
        return parameters.steps_run * per_step + extra

    def rows_of(self, parameters: Parameters) -> int:
        """How many rows of a model call such a latent takes."""
        return self.guided_rows if parameters.guided else 1


class Optimization(Message, frozen=True):
    """What became of one setting of `optimize`: its name, the value that is in force, and what that changed, for a person.

    For example ("attention", "xformers", "32 of 32 attentions; at most 3e-04 from SDPA").
    """

    name: str
    value: str
    detail: str = ""


class ModelStatus(Message, frozen=True):
    """Where a model is. `size_bytes` is what it takes of the device's memory, or will take; `progress` of its loading is 0 to 1.

    `reason` is why it failed to load. `pinned`: it stays in memory until it is unloaded by name. `load_s` is how long loading it
    takes (seconds), None while nobody knows. `optimizations` are those of a resident model.
    """

    name: str
    residency: Residency
    size_bytes: int = 0
    progress: float = 0.0
    reason: str = ""
    pinned: bool = False
    load_s: float | None = None
    optimizations: tuple[Optimization, ...] = ()


class AdapterInfo(Message, frozen=True):
    """An adapter that a worker can apply. `base` is the architecture that it was made for, empty if it cannot be told."""

    name: str
    kind: AdapterKind
    base: str = ""
    size_bytes: int = 0
