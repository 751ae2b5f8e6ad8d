"""What the server says of jobs, as frozen values.

The members of each enum stand in the order of the protobuf enum's numbers: `collodion.client.convert` relies on it,
and a test guards it.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import grpc

from collodion.client.convert import decimal_of, seconds_of, time_of, word_of
from collodion.client.status import code_of
from collodion.v1 import job_pb2


class JobState(StrEnum):
    """Where a job stands."""

    UNSPECIFIED = "unspecified"
    QUEUED = "queued"
    RUNNING = "running"
    PARKED = "parked"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self in (JobState.FINISHED, JobState.FAILED, JobState.CANCELLED)


class Stage(StrEnum):
    """What an image in the making is going through."""

    UNSPECIFIED = "unspecified"
    WAITING = "waiting"
    ENCODING = "encoding"
    DENOISING = "denoising"
    PARKED = "parked"
    DECODING = "decoding"
    DONE = "done"
    STOPPED = "stopped"


class OutputFormat(StrEnum):
    """How a finished picture is stored; UNSPECIFIED takes the server's default, PNG."""

    UNSPECIFIED = "unspecified"
    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


class PromptSyntax(StrEnum):
    """How prompts are read; UNSPECIFIED takes the server's default, PLAIN.

    WEIGHTED reads `(word:1.3)`, `[word]`, `<lora:name:0.8>` and embeddings by their names.
    """

    UNSPECIFIED = "unspecified"
    PLAIN = "plain"
    WEIGHTED = "weighted"


class DeadlinePolicy(StrEnum):
    """What to do with a job whose deadline cannot be promised; UNSPECIFIED takes the server's default, BEST_EFFORT.

    REFUSE raises `DeadlineInfeasible`. DEGRADE lowers the steps as far as `min_steps`, and warns (`Warned`, reason
    DEGRADED); if that is not enough it is refused too. BEST_EFFORT is accepted without a promise.
    """

    UNSPECIFIED = "unspecified"
    REFUSE = "refuse"
    DEGRADE = "degrade"
    BEST_EFFORT = "best_effort"


@dataclass(frozen=True)
class Lora:
    """An adapter and the factor on its contribution."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True)
class Parameters:
    """What determines the pictures of a job, every default filled in by the server. Sizes in pixels.

    Adapters that the prompt named are among `loras`, and no longer in `prompt`. `init_image_sha256` and `mask_image_sha256`
    stand for the pictures that the job begins from, as the server keeps them: empty if there are none, and then `strength`
    is None. `step_cache` is 0 where every block of the model runs every time.
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
    output_format: OutputFormat
    quality: int
    loras: tuple[Lora, ...] = ()
    prompt_syntax: PromptSyntax = PromptSyntax.PLAIN
    strength: float | None = None
    step_cache: float = 0.0
    init_image_sha256: str = ""
    mask_image_sha256: str = ""

    @classmethod
    def of(cls, message: job_pb2.Parameters) -> "Parameters":
        """From the protobuf message."""
        return cls(
            model=message.model,
            prompt=message.prompt,
            negative_prompt=message.negative_prompt,
            width=message.width,
            height=message.height,
            steps=message.steps,
            sampler=message.sampler,
            guidance_scale=decimal_of(message.guidance_scale),
            seed=message.seed,
            images=message.images,
            output_format=word_of(OutputFormat, message.output_format),
            quality=message.quality,
            loras=tuple(Lora(lora.name, decimal_of(lora.scale)) for lora in message.loras),
            prompt_syntax=word_of(PromptSyntax, message.prompt_syntax),
            strength=decimal_of(message.strength) if message.HasField("strength") else None,
            step_cache=decimal_of(message.step_cache),
            init_image_sha256=message.init_image_sha256,
            mask_image_sha256=message.mask_image_sha256,
        )

    @property
    def steps_run(self) -> int:
        """Of `steps`, those that are run: what begins from a picture skips the first ones."""
        return self.steps if self.strength is None else min(int(self.steps * self.strength), self.steps)

    def alone(self, index: int) -> "Parameters":
        """What draws image `index` (0-based) of this job by itself."""
        return replace(self, seed=self.seed + index, images=1)


@dataclass(frozen=True)
class ImageInfo:
    """A picture that the server has stored. `sha256` is that of the file, lower-case hexadecimal."""

    index: int
    seed: int
    mime_type: str
    width: int
    height: int
    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, message: job_pb2.Image) -> "ImageInfo":
        """From the protobuf message."""
        return cls(
            index=message.index,
            seed=message.seed,
            mime_type=message.mime_type,
            width=message.width,
            height=message.height,
            size_bytes=message.size_bytes,
            sha256=message.sha256,
        )


@dataclass(frozen=True)
class Failure:
    """Why a job, or an image of it, came to nothing."""

    code: grpc.StatusCode
    reason: str
    message: str

    @classmethod
    def of(cls, message: job_pb2.Failure) -> "Failure":
        """From the protobuf message."""
        return cls(code=code_of(message.code), reason=message.reason, message=message.message)


@dataclass(frozen=True)
class Timings:
    """Where the time of a job went, in seconds."""

    queued_s: float
    running_s: float
    parked_s: float
    total_s: float

    @classmethod
    def of(cls, message: job_pb2.Timings) -> "Timings":
        """From the protobuf message."""
        return cls(
            queued_s=seconds_of(message.queued),
            running_s=seconds_of(message.running),
            parked_s=seconds_of(message.parked),
            total_s=seconds_of(message.total),
        )


@dataclass(frozen=True)
class ImageProgress:
    """How far one image is: steps done, of `steps` to be run."""

    index: int
    stage: Stage
    step: int
    steps: int

    @classmethod
    def of(cls, message: job_pb2.ImageProgress) -> "ImageProgress":
        """From the protobuf message."""
        return cls(index=message.index, stage=word_of(Stage, message.stage), step=message.step, steps=message.steps)


@dataclass(frozen=True)
class Explanation:
    """Why a job is not finished sooner: one sentence, and what would let it finish sooner, each on its own."""

    summary: str
    remedies: tuple[str, ...]

    @classmethod
    def of(cls, message: job_pb2.Explanation) -> "Explanation":
        """From the protobuf message."""
        return cls(summary=message.summary, remedies=tuple(message.remedies))


@dataclass(frozen=True)
class Job:
    """One accepted request, as it stood when the server said so.

    `place` is the number of jobs before it that wait for their first step. `progress` and `images` are by index. The
    times are None where they do not apply (yet). `promised`: whether its deadline was promised, and still is; without
    that it is best effort. `parameters.steps` and `tier` are what was granted. `explanation` is there only while the
    job has not ended, and only for certain in what `get` returns.
    """

    job_id: str
    state: JobState
    parameters: Parameters
    tier: str
    labels: Mapping[str, str]
    request_id: str
    create_time: datetime.datetime | None
    deadline: datetime.datetime | None
    predicted_finish_time: datetime.datetime | None
    end_time: datetime.datetime | None
    place: int
    progress: tuple[ImageProgress, ...]
    images: tuple[ImageInfo, ...]
    failure: Failure | None
    timings: Timings | None
    deadline_met: bool | None
    detach: bool
    promised: bool
    explanation: Explanation | None

    @classmethod
    def of(cls, message: job_pb2.Job) -> "Job":
        """From the protobuf message."""
        return cls(
            job_id=message.job_id,
            state=word_of(JobState, message.state),
            parameters=Parameters.of(message.parameters),
            tier=message.tier,
            labels=dict(message.labels),
            request_id=message.request_id,
            create_time=time_of(message, "create_time"),
            deadline=time_of(message, "deadline"),
            predicted_finish_time=time_of(message, "predicted_finish_time"),
            end_time=time_of(message, "end_time"),
            place=message.place,
            progress=tuple(ImageProgress.of(progress) for progress in message.progress),
            images=tuple(ImageInfo.of(image) for image in message.images),
            failure=Failure.of(message.failure) if message.HasField("failure") else None,
            timings=Timings.of(message.timings) if message.HasField("timings") else None,
            deadline_met=message.deadline_met if message.HasField("deadline_met") else None,
            detach=message.detach,
            promised=message.promised,
            explanation=Explanation.of(message.explanation) if message.HasField("explanation") else None,
        )
