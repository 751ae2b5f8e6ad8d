"""What a Stable Diffusion folder offers, as clients are told.

A folder may hold a `collodion.json` of ours beside its `model_index.json`, with any of the keys default_steps, default_sampler,
default_guidance_scale and license; what it does not say is taken as below.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from collodion.process.config import ConfigError
from collodion.wire.jobs import ModelInfo, RefusedSampler
from collodion.worker.sampling.catalog import MAX_STEPS, SAMPLERS, SamplerRefused
from collodion.worker.sampling.counting import line_of
from collodion.worker.sampling.probing import probe
from collodion.worker.sampling.reference import Walk, build

_DEFAULTS: Mapping[str, Any] = {
    "default_steps": 25,
    "default_sampler": "dpmpp_2m",
    "default_guidance_scale": 7.5,
    "license": "",
}
_PIXEL_MULTIPLE = 8  # what StableDiffusionPipeline asks for, whatever the VAE


def describe(name: str, folder: Path, pipeline: Any, dtype: torch.dtype) -> ModelInfo:
    """Probes every sampler once, which takes about a second. Raises ConfigError for a bad collodion.json."""
    own = _own_defaults(name, folder)
    evaluations, refused = _samplers(own["default_steps"], pipeline.scheduler.config)
    samplers = tuple(evaluations)
    if own["default_sampler"] not in samplers:
        if not samplers:
            raise ConfigError(f"model {name!r}: none of our samplers suits {folder}: {refused[0].reason}")
        own["default_sampler"] = samplers[0]
    factor = pipeline.vae_scale_factor
    multiple = math.lcm(_PIXEL_MULTIPLE, factor)
    height, width = (side * factor for side in _sides(pipeline.unet.config.sample_size))
    return ModelInfo(
        name=name,
        family="stable-diffusion",
        native_width=width,
        native_height=height,
        min_size=_rounded(min(width, height) // 4, multiple),
        max_size=_rounded(max(width, height) * 2, multiple),
        size_multiple=multiple,
        max_steps=MAX_STEPS,
        samplers=samplers,
        refused_samplers=refused,
        max_prompt_tokens=pipeline.tokenizer.model_max_length - 2,
        dtype=str(dtype).removeprefix("torch."),
        guided_rows=2,
        evaluations={name: line for name, line in evaluations.items() if line != (1, 0)},
        **own,
    )


def _own_defaults(name: str, folder: Path) -> dict[str, Any]:
    file = folder / "collodion.json"
    try:
        said = json.loads(file.read_text()) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {name!r}: {file}: {error}") from error
    if not isinstance(said, dict):
        raise ConfigError(f"model {name!r}: {file}: {said!r} is not an object with keys")
    for key, value in said.items():
        known = _DEFAULTS.get(key)
        if known is None or not isinstance(value, int | float if isinstance(known, int | float) else str):
            raise ConfigError(f"model {name!r}: {file}: {key} = {value!r} is not understood")
    return {**_DEFAULTS, **said}


def _samplers(steps: int, config: Mapping[str, Any]) -> tuple[dict[str, tuple[int, int]], tuple[RefusedSampler, ...]]:
    """Those offered, each with its model calls as (per step, more in all), and those refused."""
    offered, refused = {}, []
    for sampler in SAMPLERS:
        try:
            probe(sampler, steps, config)
            offered[sampler] = _calls(sampler, config)
        except SamplerRefused as refusal:
            refused.append(RefusedSampler(name=sampler, reason=refusal.reason))
    return offered, tuple(refused)


def _calls(sampler: str, config: Mapping[str, Any]) -> tuple[int, int]:
    """Read off the timesteps that its scheduler sets, which takes a millisecond; a probe may take hundreds."""
    scheduler = build(sampler, config)
    return line_of(sampler, lambda steps: len(Walk(sampler, steps, scheduler)))


def _sides(sample_size: Any) -> tuple[int, int]:
    return (sample_size, sample_size) if isinstance(sample_size, int) else tuple(sample_size)


def _rounded(pixels: int, multiple: int) -> int:
    return max(multiple, pixels // multiple * multiple)
