"""One latent on its way from noise, or from a picture, to a picture: what a sampler needs to know of it, and nothing of any model.

A trajectory is moved on by `update.advance` only. Its tensors may be views into the batch it was last advanced in; `compact`
gives it memory of its own before it is parked.
"""

from dataclasses import dataclass

import torch

from collodion.worker.sampling.noise import NoiseSource
from collodion.worker.sampling.table import SamplerTable


@dataclass(eq=False)
class Trajectory:
    """table: how to sample. state: float32 (1 + H, C, H, W), the latent and then its history. call: evaluations done."""

    table: SamplerTable
    state: torch.Tensor
    noise: NoiseSource
    call: int = 0

    @classmethod
    def begin(
        cls,
        table: SamplerTable,
        seed: int,
        shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
        model_dtype: torch.dtype = torch.float32,
    ) -> "Trajectory":
        """A latent of shape (C, H, W) at pure noise."""
        source = NoiseSource(seed, shape, model_dtype)
        return cls.begin_from(table, source, source.draw("model"), None, device)

    @classmethod
    def begin_from(
        cls,
        table: SamplerTable,
        source: NoiseSource,
        noise: torch.Tensor,
        clean: torch.Tensor | None,
        device: torch.device | str = "cpu",
    ) -> "Trajectory":
        """A latent that begins from a picture, as noisy as the table's first call expects it.

        source: of this latent; the sampler goes on drawing from it. noise: `source.draw("model")`. clean: the picture as a
        latent, scaled as the model wants it; None for pure noise, which is also how inpainting begins at strength 1. Both
        float32 (C, H, W), on any device.
        """
        if clean is None:
            latent = source.scaled(noise, table.init_noise_sigma).to(device, non_blocking=True)
        else:
            latent = _mixed(table.levels[0], clean.to(device), noise.to(device, non_blocking=True))
        state = torch.zeros((1 + table.history, *latent.shape), device=device)
        state[0] = latent
        return cls(table, state, source)

    @property
    def latent(self) -> torch.Tensor:
        """The latent as it is now: float32 (C, H, W)."""
        return self.state[0]

    @property
    def finished(self) -> bool:
        """Whether the latent is done and ready to be decoded."""
        return self.call == len(self.table)

    @property
    def timestep(self) -> float:
        """What the model must be given at the next evaluation."""
        return self.table.timesteps[self.call]

    def draw(self) -> torch.Tensor | None:
        """The noise of the next evaluation, float32 (C, H, W) on the CPU; to be taken once."""
        dtype = self.table.draws[self.call]
        return None if dtype is None else self.noise.draw_for_sampler(dtype)

    def compact(self) -> None:
        """Lets go of the batch that the state is a view of."""
        self.state = self.state.clone()


def _mixed(level: tuple[float, float], clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """In the order of operations of diffusers' add_noise, so that not even a last bit differs."""
    signal, share = level
    return signal * clean + share * noise
