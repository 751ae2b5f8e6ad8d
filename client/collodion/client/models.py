"""The models that a server can draw with, as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass

from collodion.v1 import model_pb2


@dataclass(frozen=True)
class Model:
    """One model: what it accepts, and what a request gets that leaves a field open. Sizes in pixels.

    `refused_samplers` maps a sampler that cannot be used with it to the reason. `workers` have it in memory.
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
        )
