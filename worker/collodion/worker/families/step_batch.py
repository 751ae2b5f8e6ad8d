"""The tensors of a step batch that stay the same from step to step while the same latents run together."""

from collections.abc import Callable, Sequence

import torch

from collodion.worker.adapters.selection import Row, Selection
from collodion.worker.families.architecture import Rows, collate, length, pad
from collodion.worker.families.denoising import Denoising
from collodion.worker.families.device import Device


class StepBatch:
    """Rows of one model call: every latent with its prompt, then the guided ones again with their negative prompt.

    places: where these latents are among all that are stepped; an int64 tensor. size: rows of the call at least; zeros fill it up.
    select: the adapters of these rows, in a call of so many. guided: int64, the latents with a negative row.
    """

    def __init__(
        self,
        states: Sequence[Denoising],
        places: Sequence[int],
        size: int,
        device: Device,
        select: Callable[[Sequence[Row], int], Selection],
    ) -> None:
        self.places = device.to_device(torch.tensor(places, dtype=torch.int64))
        self.states = states
        self.trajectories = [state.trajectory for state in states]
        texts = [state.conditioning.texts for state in states]
        self._device = device
        self._guided = [row for row, ours in enumerate(texts) if len(ours) > 1]
        self._rows = len(states) + len(self._guided)
        self.size = max(size, self._rows)
        rows = [*(ours[0] for ours in texts), *(texts[row][1] for row in self._guided)]
        self._texts = collate(rows, self.size)
        self._lengths = tuple(map(length, rows))
        self.guided = device.to_device(torch.tensor(self._guided, dtype=torch.int64))
        self._order = [*range(len(states)), *self._guided]
        scales = torch.tensor([states[row].guidance_scale for row in self._order], dtype=torch.float32)
        self._guidance = device.to_device(pad(scales, self.size))
        self._channels = self._more_channels()
        self.selection = select([states[row].conditioning.uses for row in self._order], self.size)

    def rows(self, latents: torch.Tensor) -> Rows:
        """The model call. latents: float32 (latents, C, H, W), as the model is to be given them."""
        inputs = pad(torch.cat([latents, latents[self.guided]]), self.size).to(self._device.dtype)
        if self._channels is not None:
            inputs = torch.cat([inputs, self._channels], dim=1)
        # Whole numbers become float32 inside of a UNet before anything else, too.
        timesteps = torch.tensor([self.trajectories[row].timestep for row in self._order], dtype=torch.float32)
        timesteps = self._device.to_device(pad(timesteps, self.size))
        return Rows(inputs, timesteps, self._texts, self._guidance, self._lengths)

    def guide(
        self,
        predicted: torch.Tensor,
        guidance: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """What `guidance` makes of the guided ones, and the others. predicted: float32 (size, C, H, W). Returns (latents, C, H, W)."""
        prompted = predicted[: len(self.states)]
        if not self._guided:
            return prompted
        negative = predicted[len(self.states) : self._rows]
        scales = self._guidance[len(self.states) : self._rows, None, None, None]
        return prompted.index_copy(0, self.guided, guidance(prompted[self.guided], negative, scales))

    def _more_channels(self) -> torch.Tensor | None:
        channels = [self.states[row].channels for row in self._order]
        present = [one for one in channels if one is not None]
        return pad(torch.stack(present), self.size) if present else None
