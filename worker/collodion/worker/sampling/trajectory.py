"""One latent on its way from noise to picture: what a sampler needs to know of it, and nothing of any model.

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
        noise = NoiseSource(seed, shape, model_dtype)
        state = torch.zeros((1 + table.history, *shape))
        state[0] = noise.initial_latent(table.init_noise_sigma)
        return cls(table, state.to(device), noise)

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
        return None if dtype is None else self.noise.draw(dtype)

    def compact(self) -> None:
        """Lets go of the batch that the state is a view of."""
        self.state = self.state.clone()
