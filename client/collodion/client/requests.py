"""What a caller asks for, as the request that goes over the wire.

1. What is not given is not sent: the server fills in its own default.
2. Ranges are the server's business, which answers with all violations at once; only what protobuf cannot hold is
   refused here.
"""

import uuid
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Literal, TypedDict, TypeVar

from google.protobuf.message import Message

from collodion.client.convert import number_of
from collodion.client.errors import Details, InvalidRequest, Violation
from collodion.client.jobs import DeadlinePolicy, JobState, Lora, OutputFormat, PromptSyntax
from collodion.client.pictures import FIELDS, PictureLike, file_of
from collodion.v1 import generation_pb2, job_pb2

Request = TypeVar("Request", bound=Message)


Loras = Mapping[str, float] | Iterable[str | tuple[str, float] | Lora]


class JobOptions(TypedDict, total=False):
    """What may be said of a job beside its prompt; `collodion/v1/job.proto` documents ranges and defaults.

    Sizes are in pixels. `seed` is that of the first image, image i has seed + i. `loras`: adapters as a mapping from name to
    scale, or as a list of names, (name, scale) pairs and `Lora`s. `init_image` and `mask_image`: a file's bytes, its path,
    or a PIL.Image.Image; `strength`: how far to depart from the former, more than 0 to 1. `step_cache`: the relative change
    of the model's first block, 0 (off) to 1, up to which the other blocks' last output is used again: larger is faster and
    further from the exact picture. `slo_s`: seconds after acceptance by which the job should be finished, its `tier`'s if it
    is not given. `deadline_policy`: what is to become of it if that cannot be promised, see `DeadlinePolicy`; `min_steps`:
    what DEGRADE may go down to. `preview_interval`: a preview every so many steps. `request_id`: a UUID; the same id with
    the same content gives the same job; chosen at random if it is not given.
    """

    model: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    sampler: str
    guidance_scale: float
    seed: int
    images: int
    loras: Loras
    prompt_syntax: PromptSyntax | Literal["plain", "weighted"]
    init_image: PictureLike
    mask_image: PictureLike
    strength: float
    step_cache: float
    output_format: OutputFormat | Literal["png", "jpeg", "webp"]
    quality: int
    tier: str
    slo_s: float
    deadline_policy: DeadlinePolicy | Literal["refuse", "degrade", "best_effort"]
    min_steps: int
    allow_step_cache: bool
    detach: bool
    preview_interval: int
    request_id: str
    labels: Mapping[str, str]


_WORDS: dict[str, type[StrEnum]] = {
    "output_format": OutputFormat,
    "prompt_syntax": PromptSyntax,
    "deadline_policy": DeadlinePolicy,
}
_OF_PARAMETERS = frozenset(job_pb2.Parameters.DESCRIPTOR.fields_by_name)


def job_request(prompt: str, options: JobOptions) -> generation_pb2.JobRequest:
    """The request for a job.

    Raises:
        TypeError: an option is unknown.
        InvalidRequest: a value cannot be sent at all; all of these are listed.
        OSError: a picture's file cannot be read.
    """
    unknown = options.keys() - JobOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"no such option: {', '.join(sorted(unknown))}")
    job = generation_pb2.JobRequest()
    violations = []
    for name, value in {"request_id": str(uuid.uuid4()), **options, "prompt": prompt}.items():
        try:
            _set(job.parameters if name in _OF_PARAMETERS else job, name, value)
        except (TypeError, ValueError, OverflowError) as error:
            path = f"job.parameters.{name}" if name in _OF_PARAMETERS else f"job.{name.removesuffix('_s')}"
            violations.append(Violation(path, f"{_shown(value)} cannot be sent: {error}"))
    if violations:
        raise InvalidRequest(
            "the request cannot be sent", reason="INVALID_FIELDS", details=Details(violations=tuple(violations))
        )
    return job


def generate(prompt: str, options: JobOptions) -> generation_pb2.GenerateRequest:
    """Submit a job and watch it. Errors as `job_request`."""
    return generation_pb2.GenerateRequest(
        job=job_request(prompt, options), image_delivery=job_pb2.IMAGE_DELIVERY_INLINE
    )


def create(prompt: str, options: JobOptions) -> generation_pb2.CreateJobRequest:
    """Submit a job that runs on by itself. Errors as `job_request`."""
    return generation_pb2.CreateJobRequest(job=job_request(prompt, options))


def made(kind: type[Request], **fields: Any) -> Request:
    """A request of `kind`.

    Raises:
        InvalidRequest: a value cannot be sent at all: a negative index, text that is no Unicode.
    """
    try:
        return kind(**fields)
    except ValueError as error:
        raise InvalidRequest(f"the request cannot be sent: {error}", reason="INVALID_FIELDS") from error


def watch(job_id: str) -> generation_pb2.WatchJobRequest:
    """Attach to a job."""
    return made(generation_pb2.WatchJobRequest, job_id=job_id, image_delivery=job_pb2.IMAGE_DELIVERY_INLINE)


def page(
    states: Iterable[JobState], labels: Mapping[str, str], page_size: int, token: str
) -> generation_pb2.ListJobsRequest:
    """One page of the list of jobs."""
    numbers = [job_pb2.JobState.ValueType(number_of(state)) for state in states]
    return made(generation_pb2.ListJobsRequest, page_size=page_size, page_token=token, states=numbers, labels=labels)


def _set(message: Message, name: str, value: Any) -> None:
    match name:
        case "slo_s":
            message.slo.FromMicroseconds(round(value * 1e6))  # type: ignore[attr-defined]
        case "labels":
            message.labels.update(value)  # type: ignore[attr-defined]
        case "loras":
            message.loras.extend(map(_lora, _listed(value)))  # type: ignore[attr-defined]
        case _ if name in FIELDS:
            setattr(message, name, file_of(value))
        case _ if name in _WORDS:
            setattr(message, name, number_of(_WORDS[name](value)))
        case _:
            setattr(message, name, value)


def _listed(loras: Any) -> Iterable[Any]:
    if isinstance(loras, str):
        raise TypeError("adapters are a list or a mapping, not one name")
    return loras.items() if isinstance(loras, Mapping) else loras


def _lora(one: Any) -> job_pb2.Lora:
    match one:
        case str():
            return job_pb2.Lora(name=one)
        case Lora(name=name, scale=scale) | (name, scale):
            return job_pb2.Lora(name=name, scale=scale)
    raise TypeError(f"{one!r} is no name and no (name, scale) pair")


def _shown(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes | bytearray | memoryview) else repr(value)
