"""How diffusers' own pipelines are asked for the picture of a job of ours."""

import functools
import inspect
from typing import Any

import diffusers
import torch

from collodion.worker.sampling.catalog import flow_matching, samplers_for


def call(pipeline: Any, fields: dict[str, Any], **more: Any) -> tuple[torch.Tensor, Any]:
    """Latent (C, H, W) and picture (H, W, 3) in 0..1. more: what goes to the pipeline beside."""
    asked = {
        "prompt": fields["prompt"],
        "negative_prompt": fields["negative_prompt"] or None,
        "num_inference_steps": fields["steps"],
        "guidance_scale": fields["guidance_scale"],
        **{side: fields[side] for side in ("width", "height") if side in fields},
        **more,
    }
    latents, picture = (_called(pipeline, fields, {**asked, "output_type": kind}) for kind in ("latent", "np"))
    if latents.dim() == 2:  # packed, as FLUX has them
        sides = fields["height"], fields["width"]
        latents = pipeline._unpack_latents(latents[None], *sides, pipeline.vae_scale_factor)[0]
    return latents, picture


def _called(pipeline: Any, fields: dict[str, Any], asked: dict[str, Any]) -> Any:
    generator = torch.Generator().manual_seed(fields["seed"])
    pipeline.scheduler = _scheduler(pipeline.own_config, fields["sampler"], generator)
    return pipeline(**asked, generator=generator).images[0]


def _scheduler(config: dict[str, Any], sampler: str, generator: torch.Generator) -> Any:
    entry = samplers_for(config)[sampler]
    overrides = dict(entry.overrides)
    if overrides.get("use_flow_sigmas"):
        overrides["flow_shift"] = config["shift"]
    scheduler = getattr(diffusers, entry.scheduler).from_config(config, **overrides)
    # Flow-matching models' pipelines leave samplers to the generator of the process.
    if flow_matching(config) and "generator" in inspect.signature(scheduler.step).parameters:
        scheduler.step = functools.partial(scheduler.step, generator=generator)
    return scheduler
