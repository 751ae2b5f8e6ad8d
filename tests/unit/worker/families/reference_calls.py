"""How diffusers' own pipelines are asked for the picture of a job of ours."""

from typing import Any

import diffusers
import torch

from collodion.worker.sampling.catalog import SAMPLERS


def call(pipeline: Any, fields: dict[str, Any], **more: Any) -> tuple[torch.Tensor, Any]:
    """Latent (C, H, W) and picture (H, W, 3) in 0..1. more: what goes to the pipeline beside."""
    entry = SAMPLERS[fields["sampler"]]
    pipeline.scheduler = getattr(diffusers, entry.scheduler).from_config(pipeline.own_config, **entry.overrides)
    asked = {
        "prompt": fields["prompt"],
        "negative_prompt": fields["negative_prompt"] or None,
        "num_inference_steps": fields["steps"],
        "guidance_scale": fields["guidance_scale"],
        **more,
    }
    latents, picture = (
        pipeline(**asked, generator=torch.Generator().manual_seed(fields["seed"]), output_type=kind).images[0]
        for kind in ("latent", "np")
    )
    return latents, picture
