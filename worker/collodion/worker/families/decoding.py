"""Finished latents to pictures."""

from collections.abc import Callable, Hashable, Sequence
from functools import partial

import torch

from collodion.wire.jobs import Optimization
from collodion.worker.families.beside import BesideDecoder, SideStream
from collodion.worker.families.device import Device
from collodion.worker.families.vae import Vae
from collodion.worker.families.vae_memory import FrugalVae, free_bytes
from collodion.worker.memory_errors import memory_errors
from collodion.worker.optimize.plan import Plan
from collodion.worker.optimize.wishes import Decoding
from collodion.worker.pipeline import Decoded
from collodion.worker.timing import Span


class Decoder:
    """Of one model; device thread.

    rows: latents in a call, filled up, of a reproducible worker; 0: as many as there are. slowdown: of steps, where latents are decoded
    beside them. Raises Unsuitable.
    """

    def __init__(
        self, vae: Vae, device: Device, plan: Plan, rows: int, slowdown: float, squeezed: Callable[[str], None]
    ) -> None:
        self._vae = vae
        self._device = device
        self._frugal = FrugalVae(vae, plan.vae, rows, partial(free_bytes, device.place), squeezed)
        self._beside: BesideDecoder | None = None
        if plan.decode is Decoding.BESIDE:
            lane = SideStream(device)
            self._beside = BesideDecoder(self._frugal.in_pieces, vae.pixels, device, lane, slowdown)

    @property
    def optimizations(self) -> tuple[Optimization, ...]:
        """See Pipeline."""
        if self._beside is None:
            return (self._frugal.optimization,)
        return self._frugal.optimization, self._beside.optimization

    def stepped(self, key: Hashable, span: Span) -> None:
        """A step of this model was issued. key: what makes steps take equally long."""
        if self._beside is not None:
            self._beside.stepped(key, span)

    def decode(self, latents: Sequence[torch.Tensor]) -> Decoded:
        """latents: float32 (C, H, W) each, of one size. Raises MemoryError."""
        if self._beside is not None:
            return self._beside.decode(latents)
        with self._device.span() as span, memory_errors():
            decoded = self._frugal.decode(torch.stack(list(latents)))
            lost = self._device.to_host(~decoded.float().sum(dim=(1, 2, 3)).isfinite())
            pictures = self._device.to_host(self._vae.pixels(decoded))
        return Decoded(
            span, lambda: [None if bad else picture.numpy() for bad, picture in zip(lost, pictures, strict=True)]
        )
