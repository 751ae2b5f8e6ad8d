"""How diffusers' own pipelines are asked for the picture of a job of ours."""

import functools
import inspect
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas

from collodion.worker.sampling.catalog import flow_matching, samplers_for


def call(pipeline: Any, fields: dict[str, Any], **more: Any) -> tuple[torch.Tensor, Any]:
    """Latent (C, H, W) and picture (H, W, 3) in 0..1. more: what goes to the pipeline beside."""
    asked = {
        "prompt": fields["prompt"],
        "num_inference_steps": fields["steps"],
        **_GUIDED.get(type(pipeline).__name__, _as_stable_diffusion)(
            fields["guidance_scale"], fields["negative_prompt"]
        ),
        **{side: fields[side] for side in ("width", "height") if side in fields},
        **more,
    }
    latents, picture = _called(pipeline, fields, asked)
    if latents.dim() == 2:  # packed, as FLUX has them
        sides = fields["height"], fields["width"]
        latents = pipeline._unpack_latents(latents[None], *sides, pipeline.vae_scale_factor)[0]
        latents = latents.reshape(-1, *latents.shape[-2:])  # Qwen-Image's is a film of one frame
    return latents, picture


def _as_stable_diffusion(scale: float, negative: str) -> dict[str, Any]:
    return {"guidance_scale": scale, "negative_prompt": negative or None}


def _as_qwen_image(scale: float, negative: str) -> dict[str, Any]:
    """Without a negative prompt, were it an empty one, it does not guide."""
    return {"true_cfg_scale": scale, "negative_prompt": negative if scale > 1 else None}


def _as_z_image(scale: float, negative: str) -> dict[str, Any]:
    """It counts from 0 what others count from 1."""
    return {"guidance_scale": max(0.0, scale - 1), "negative_prompt": negative or None}


_GUIDED = {"QwenImagePipeline": _as_qwen_image, "ZImagePipeline": _as_z_image}


def _called(pipeline: Any, fields: dict[str, Any], asked: dict[str, Any]) -> tuple[torch.Tensor, Any]:
    last = {}

    def note(_pipeline: Any, _step: int, _timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
        last.update(state)
        return state

    generator = torch.Generator().manual_seed(fields["seed"])
    pipeline.scheduler = _scheduler(pipeline.own_config, fields["sampler"], generator)
    if type(pipeline).__name__ == "ZImagePipeline":  # it passes them as a list, which UniPC cannot multiply
        asked = {"sigmas": np.array(get_default_z_image_sigmas(fields["steps"])), **asked}
    drawn = pipeline(**asked, generator=generator, output_type="np", callback_on_step_end=note)
    return last["latents"][0], drawn.images[0]


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
