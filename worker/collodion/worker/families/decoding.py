"""Finished latents to pictures."""

from collections.abc import Sequence

import torch

from collodion.worker.families.architecture import pad
from collodion.worker.families.device import Device, memory_errors
from collodion.worker.families.vae import Vae
from collodion.worker.pipeline import Decoded


class Decoder:
    """Of one model; device thread. rows: latents in a call, filled up, of a reproducible worker; 0: as many as there are."""

    def __init__(self, vae: Vae, device: Device, rows: int) -> None:
        self._vae = vae
        self._device = device
        self._rows = rows

    def decode(self, latents: Sequence[torch.Tensor]) -> Decoded:
        """latents: float32 (C, H, W) each, of one size. Raises MemoryError."""
        with self._device.span() as span, memory_errors():
            decoded = self._vae.decode(pad(torch.stack(list(latents)), self._rows))[: len(latents)]
            lost = self._device.to_host(~decoded.float().sum(dim=(1, 2, 3)).isfinite())
            pictures = self._device.to_host(self._vae.pixels(decoded))
        return Decoded(
            span, lambda: [None if bad else picture.numpy() for bad, picture in zip(lost, pictures, strict=True)]
        )
