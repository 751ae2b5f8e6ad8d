"""The models that a server can draw with, and their adapters, as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from collodion.client.convert import word_of
from collodion.v1 import model_pb2


class Residency(StrEnum):
    """Where a model is."""

    UNSPECIFIED = "unspecified"
    RESIDENT = "resident"
    LOADING = "loading"
    ON_DISK = "on_disk"
    FAILED = "failed"


class AdapterKind(StrEnum):
    """What an adapter's file holds."""

    UNSPECIFIED = "unspecified"
    LOW_RANK = "low_rank"
    WHOLE = "whole"
    EMBEDDING = "embedding"


@dataclass(frozen=True)
class Optimization:
    """What became of one setting that makes a model fast: the value that is in force, and in `detail` what that changed, for a person."""

    name: str
    value: str
    detail: str = ""

    @classmethod
    def of(cls, message: model_pb2.Optimization) -> "Optimization":
        """From the protobuf message."""
        return cls(name=message.name, value=message.value, detail=message.detail)


@dataclass(frozen=True)
class ModelStatus:
    """Where a model is, and what it takes to have it in a device's memory.

    `progress` of its loading is 0 to 1; `failure` says why it could not be loaded; `pinned`: it stays until it is unloaded by name;
    `load_s` is how long loading it takes, None while nobody knows. `optimizations` are those of a model that is in memory; of
    several workers that have it, the first one's by name.
    """

    residency: Residency
    size_bytes: int
    progress: float
    failure: str
    pinned: bool
    load_s: float | None
    optimizations: tuple[Optimization, ...] = ()

    @classmethod
    def of(cls, message: model_pb2.ModelStatus) -> "ModelStatus":
        """From the protobuf message."""
        return cls(
            residency=word_of(Residency, message.residency),
            size_bytes=message.size_bytes,
            progress=message.progress,
            failure=message.failure,
            pinned=message.pinned,
            load_s=message.load_seconds or None,
            optimizations=tuple(map(Optimization.of, message.optimizations)),
        )


@dataclass(frozen=True)
class Adapter:
    """A LoRA, another adapter or an embedding. `base` is the architecture that it is made for, empty if that cannot be told."""

    name: str
    kind: AdapterKind
    base: str
    size_bytes: int

    @classmethod
    def of(cls, message: model_pb2.Adapter) -> "Adapter":
        """From the protobuf message."""
        return cls(
            name=message.name,
            kind=word_of(AdapterKind, message.kind),
            base=message.base,
            size_bytes=message.size_bytes,
        )


@dataclass(frozen=True)
class Model:
    """One model: what it accepts, and what a request gets that leaves a field open. Sizes in pixels.

    `refused_samplers` maps a sampler that cannot be used with it to the reason. `workers` have it in memory. `base` is what its
    adapters have to be made for. `init_images`, `masks`, `loras`, `weighted_prompts` and `step_cache` say what a request may have. Of
    a model whose files cannot be read only `name` and `status` are known.
    """

    name: str
    family: str
    is_default: bool
    native_width: int
    native_height: int
    min_size: int
    max_size: int
    size_multiple: int
    default_steps: int
    max_steps: int
    default_sampler: str
    samplers: tuple[str, ...]
    refused_samplers: Mapping[str, str]
    default_guidance_scale: float
    max_prompt_tokens: int
    workers: int
    dtype: str
    license: str
    base: str
    init_images: bool
    masks: bool
    loras: bool
    weighted_prompts: bool
    step_cache: bool
    status: ModelStatus

    @classmethod
    def of(cls, message: model_pb2.Model) -> "Model":
        """From the protobuf message."""
        return cls(
            name=message.name,
            family=message.family,
            is_default=message.is_default,
            native_width=message.native_width,
            native_height=message.native_height,
            min_size=message.min_size,
            max_size=message.max_size,
            size_multiple=message.size_multiple,
            default_steps=message.default_steps,
            max_steps=message.max_steps,
            default_sampler=message.default_sampler,
            samplers=tuple(message.samplers),
            refused_samplers={refused.name: refused.reason for refused in message.refused_samplers},
            default_guidance_scale=message.default_guidance_scale,
            max_prompt_tokens=message.max_prompt_tokens,
            workers=message.workers,
            dtype=message.dtype,
            license=message.license,
            base=message.base,
            init_images=message.init_images,
            masks=message.masks,
            loras=message.loras,
            weighted_prompts=message.weighted_prompts,
            step_cache=message.step_cache,
            status=ModelStatus.of(message.status),
        )
