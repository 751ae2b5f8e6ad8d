"""What the Stable Diffusion family keeps of a job and of a latent between two steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from weakref import WeakSet

import torch

from collodion.worker.pipeline import Plan
from collodion.worker.sampling.table import SamplerTable
from collodion.worker.sampling.trajectory import Trajectory


@dataclass(frozen=True, eq=False, kw_only=True)
class SamplingPlan(Plan):
    """A plan with its sampler."""

    table: SamplerTable


@dataclass(eq=False)
class Conditioning:
    """What the text encoder made of a job's prompts: (tokens, width) each; `negative` is None without guidance.

    The job's latents share it; `readers` are those of them that are on the device, and it lies on the host when there are none.
    """

    prompt: torch.Tensor
    negative: torch.Tensor | None
    readers: "WeakSet[Denoising]" = field(default_factory=WeakSet)

    @property
    def nbytes(self) -> int:
        """Of both."""
        return self.prompt.nbytes + (0 if self.negative is None else self.negative.nbytes)

    def move(self, moved: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Puts what `moved` makes of each tensor in its place."""
        prompt, negative = moved(self.prompt), None if self.negative is None else moved(self.negative)
        self.prompt, self.negative = prompt, negative


@dataclass(eq=False, slots=True, weakref_slot=True)
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
