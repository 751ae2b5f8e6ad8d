"""The tensors of a step batch that stay the same from step to step while the same latents run together."""

from collections.abc import Sequence

import torch

from collodion.worker.families.denoising import Denoising
from collodion.worker.families.device import Device


def pad(rows: torch.Tensor, size: int) -> torch.Tensor:
    """`rows` with zeros behind them up to `size` rows; a `size` below their number changes nothing."""
    if size <= len(rows):
        return rows
    return torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])


class StepBatch:
    """Rows of one model call: every latent with its prompt, then the guided ones again with their negative prompt.

    size: rows of the call at least; zeros fill it up. texts: (size, tokens, width). guided: int64, the latents with guidance.
    """

    def __init__(self, states: Sequence[Denoising], size: int, device: Device) -> None:
        self.states = states
        self.trajectories = [state.trajectory for state in states]
        negatives = [state.conditioning.negative for state in states]
        self._guided = [row for row, negative in enumerate(negatives) if negative is not None]
        self._rows = len(states) + len(self._guided)
        self.size = max(size, self._rows)
        texts = [state.conditioning.prompt for state in states] + [text for text in negatives if text is not None]
        self.texts = pad(torch.stack(texts), self.size)
        self.guided = torch.tensor(self._guided, dtype=torch.int64).to(device.place)
        scales = torch.tensor([states[row].guidance_scale for row in self._guided], dtype=torch.float32)
        self._scales = scales.to(device.place)[:, None, None, None]

    def timesteps(self) -> torch.Tensor:
        """float32 (size,) on the host; the UNet turns whole numbers into float32 before anything else, too."""
        timesteps = [row.timestep for row in self.trajectories]
        timesteps += [timesteps[row] for row in self._guided]
        return pad(torch.tensor(timesteps, dtype=torch.float32), self.size)

    def guide(self, predicted: torch.Tensor) -> torch.Tensor:
        """Classifier-free guidance (Ho and Salimans 2022, equation 6, as diffusers counts its scale), row by row.

        predicted: float32 (size, C, H, W). Returns (latents, C, H, W).
        """
        prompted = predicted[: len(self.states)]
        if not self._guided:
            return prompted
        negative = predicted[len(self.states) : self._rows]
        guided = negative + self._scales * (prompted[self.guided] - negative)
        return prompted.index_copy(0, self.guided, guided)
