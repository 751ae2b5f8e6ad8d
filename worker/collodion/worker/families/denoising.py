"""What the Stable Diffusion family keeps of a job and of a latent between two steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from collodion.worker.pipeline import Plan
from collodion.worker.sampling.table import SamplerTable
from collodion.worker.sampling.trajectory import Trajectory


@dataclass(frozen=True, eq=False, kw_only=True)
class SamplingPlan(Plan):
    """A plan with its sampler."""

    table: SamplerTable


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What the text encoder made of a job's prompts: (tokens, width) each; `negative` is None without guidance."""

    prompt: torch.Tensor
    negative: torch.Tensor | None


@dataclass(eq=False, slots=True)
class Denoising:
    """A latent in the making."""

    trajectory: Trajectory
    conditioning: Conditioning
    guidance_scale: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The last model call: what went in and what came out, float32 (latents, C, H, W) each, by latent."""

    states: Sequence[Denoising]
    inputs: torch.Tensor
    outputs: torch.Tensor
    timesteps: Sequence[float]
