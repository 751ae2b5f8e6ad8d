"""What is kept of a job and of a latent between two steps, whatever the architecture."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from weakref import WeakSet

import torch

from collodion.worker.adapters.loaded import Use
from collodion.worker.families.architecture import Prompt, Texts
from collodion.worker.families.start import Kept, Scene, Start
from collodion.worker.pipeline import Plan
from collodion.worker.sampling.table import SamplerTable
from collodion.worker.sampling.trajectory import Trajectory
from collodion.worker.step_cache.reuse import Reuse

Moved = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False, kw_only=True)
class SamplingPlan(Plan):
    """A plan with its sampler, its prompt and, if it is guided by one, negative prompt, its adapters, and the picture it begins from."""

    table: SamplerTable
    prompts: tuple[Prompt, ...]
    uses: tuple[Use, ...] = ()
    scene: Scene | None = None


@dataclass(eq=False)
class Conditioning:
    """What encoding made of a job's prompt, of its negative one if it is guided by one, and of its picture. `uses` are its adapters.

    The job's latents share it; `readers` are those of them that are on the device, and it lies on the host when there are none.
    """

    texts: Sequence[Texts]
    start: Start | None = None
    uses: tuple[Use, ...] = ()
    readers: "WeakSet[Denoising]" = field(default_factory=WeakSet)

    @property
    def form(self) -> Hashable:
        """What it has in common with others whose rows go through the very same kernels."""
        return self.text_shapes, tuple((use.adapter.key, use.scale) for use in self.uses)

    @property
    def text_shapes(self) -> Hashable:
        """Of all its texts."""
        return tuple((name, tensor.shape) for texts in self.texts for name, tensor in texts.items())

    @property
    def nbytes(self) -> int:
        """Of everything."""
        own = sum(tensor.nbytes for texts in self.texts for tensor in texts.values())
        return own + (0 if self.start is None else self.start.nbytes)

    def move(self, moved: Moved) -> None:
        """Puts what `moved` makes of each tensor in its place; all of them or none."""
        texts = [{name: moved(tensor) for name, tensor in one.items()} for one in self.texts]
        start = None if self.start is None else self.start.moved(moved)
        self.texts, self.start = texts, start


@dataclass(eq=False, slots=True, weakref_slot=True)
class Denoising:
    """A latent in the making.

    `channels`, (C', H, W) of the model's dtype, go with the latent into every model call; `kept` is put back after it. `step_cache`: see
    Parameters. `reuse` is forgotten when the latent is parked: its next evaluation is a full one.
    """

    trajectory: Trajectory
    conditioning: Conditioning
    guidance_scale: float
    kept: Kept | None = None
    channels: torch.Tensor | None = None
    step_cache: float = 0.0
    reuse: Reuse | None = None

    @property
    def nbytes(self) -> int:
        """Of what is its own."""
        own = self.trajectory.state.nbytes + (0 if self.channels is None else self.channels.nbytes)
        own += 0 if self.kept is None else self.kept.nbytes
        return own + (0 if self.reuse is None else self.reuse.nbytes)

    def move(self, moved: Moved) -> None:
        """Puts what `moved` makes of each of its own tensors in its place; all of them or none."""
        state = moved(self.trajectory.state)
        channels = None if self.channels is None else moved(self.channels)
        kept = None if self.kept is None else self.kept.moved(moved)
        self.trajectory.state, self.channels, self.kept = state, channels, kept


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one model call did to these latents; it is theirs once the batch takes it.

    following: float32 (1 + H, slots, C, height, width), see sampling/update.py. inputs, outputs: what the model was given for each slot and
    what came out after guidance, float32 (slots, C, height, width). lost: bool (latents,), those that are not finite. timesteps, reuses: by
    latent.
    """

    states: Sequence[Denoising]
    following: torch.Tensor
    inputs: torch.Tensor
    outputs: torch.Tensor
    lost: torch.Tensor
    timesteps: Sequence[float]
    reuses: Sequence[Reuse | None]
