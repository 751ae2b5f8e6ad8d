"""Latents that begin from a picture, and parts of it that are to stay, as diffusers' image-to-image and inpainting pipelines have it.

What is drawn from a latent's generator, in this order: the picture's posterior (unless nothing of it is used), the noise, and, with a mask,
the posterior of the picture without what the mask covers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from collodion.worker.families.vae import Posterior, Vae
from collodion.worker.sampling.noise import NoiseSource

_HALF = 0.5  # a mask's pixel is redrawn from here on


@dataclass(frozen=True, eq=False)
class Scene:
    """What a request brings, at the size of the picture to be drawn. On the host.

    picture: float32 (3, H, W) in -1..1. mask: float32 (1, H, W), 1 where it is to be redrawn, else 0; None: everywhere.
    """

    picture: torch.Tensor
    mask: torch.Tensor | None

    @classmethod
    def read(cls, vae: Vae, picture: Any, mask: Any | None, size: tuple[int, int]) -> "Scene":
        """picture, mask: PIL pictures of any size, resized as diffusers does. size: width and height of the picture to be drawn."""
        width, height = size
        pixels = vae.image_processor.preprocess(picture, height=height, width=width)[0].float()
        if mask is None:
            return cls(pixels, None)
        return cls(pixels, vae.mask_processor.preprocess(mask, height=height, width=width)[0].float())

    @classmethod
    def blank(cls, size: tuple[int, int]) -> "Scene":
        """What an inpainting model is given that is to draw all of a picture."""
        width, height = size
        return cls(torch.zeros(3, height, width), torch.ones(1, height, width))

    def all_anew(self) -> "Scene":
        """With a mask, of everything if it has none."""
        return self if self.mask is not None else Scene(self.picture, torch.ones_like(self.picture[:1]))

    @property
    def uncovered(self) -> torch.Tensor:
        """The picture without what is to be redrawn."""
        assert self.mask is not None
        return self.picture * (self.mask < _HALF)


@dataclass(frozen=True, eq=False)
class Start:
    """An encoded scene. mask: float32 (1, H, W) of the latent's size."""

    picture: Posterior
    uncovered: Posterior | None = None
    mask: torch.Tensor | None = None

    @classmethod
    def encoded(cls, scene: Scene, vae: Vae, device: torch.device) -> "Start":
        """Device thread. One picture at a time: they are large."""
        picture = vae.encode(scene.picture[None])[0]
        if scene.mask is None:
            return cls(_own(picture))
        uncovered = vae.encode(scene.uncovered[None])[0]
        height, width = (side // vae.factor for side in scene.mask.shape[1:])
        mask = torch.nn.functional.interpolate(scene.mask[None], size=(height, width))[0].to(device, non_blocking=True)
        return cls(_own(picture), _own(uncovered), mask)

    @property
    def nbytes(self) -> int:
        """Of everything."""
        return sum(tensor.nbytes for tensor in self._tensors())

    def moved(self, moved: Callable[[torch.Tensor], torch.Tensor]) -> "Start":
        """With every tensor replaced by what `moved` makes of it."""
        picture = Posterior(*map(moved, self.picture))
        uncovered = None if self.uncovered is None else Posterior(*map(moved, self.uncovered))
        return Start(picture, uncovered, None if self.mask is None else moved(self.mask))

    def _tensors(self) -> tuple[torch.Tensor, ...]:
        return (*self.picture, *(self.uncovered or ()), *(() if self.mask is None else (self.mask,)))


@dataclass(frozen=True, eq=False)
class Kept:
    """What stays of the picture while the rest is drawn anew, and the noise that it is hidden in.

    clean, noise: float32 (C, H, W), normalised. mask: float32 (1, H, W), 1 where it is drawn anew.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Of everything."""
        return self.clean.nbytes + self.noise.nbytes + self.mask.nbytes

    def moved(self, moved: Callable[[torch.Tensor], torch.Tensor]) -> "Kept":
        """With every tensor replaced by what `moved` makes of it."""
        return Kept(moved(self.clean), moved(self.noise), moved(self.mask))

    def put_back(self, latent: torch.Tensor, signal: float, noise: float) -> torch.Tensor:
        """The latent with what is kept in its place, as noisy as the latent is."""
        kept = signal * self.clean + noise * self.noise
        return (1 - self.mask) * kept + self.mask * latent


@dataclass(frozen=True, eq=False)
class Beginning:
    """What a latent begins with. noise, clean: float32 (C, H, W); without `clean` it begins from pure noise. channels: see `Denoising`."""

    noise: torch.Tensor
    clean: torch.Tensor | None = None
    kept: Kept | None = None
    channels: torch.Tensor | None = None


def beginning(start: Start | None, strength: float, vae: Vae, noise: NoiseSource, sees_masks: bool) -> Beginning:
    """Draws what a latent begins with. sees_masks: whether the model is given mask and picture as further channels."""
    if start is None:
        return Beginning(noise.draw("model"))
    if start.mask is None or start.uncovered is None:
        clean = _sampled(start.picture, vae, noise)
        return Beginning(noise.draw("model"), clean)
    anew = strength == 1.0  # then diffusers begins from pure noise, not from the picture at the highest noise
    if sees_masks:
        seen = None if anew else _sampled(start.picture, vae, noise)
        drawn = noise.draw("model")
        uncovered = _sampled(start.uncovered, vae, noise)
        return Beginning(drawn, seen, channels=torch.cat([start.mask, uncovered]))
    clean = _sampled(start.picture, vae, noise)
    drawn = noise.draw("model")
    noise.normal(vae.dtype)  # of the uncovered part, which such a model never sees
    kept = Kept(clean, drawn.to(clean.device, non_blocking=True), start.mask)
    return Beginning(drawn, None if anew else clean, kept)


def _sampled(posterior: Posterior, vae: Vae, noise: NoiseSource) -> torch.Tensor:
    """A draw from the posterior, normalised: float32 (C, H, W)."""
    drawn = noise.normal(vae.dtype).to(posterior.mean.device, non_blocking=True)
    return vae.normalise(posterior.mean.float() + posterior.std.float() * drawn)


def _own(posterior: Posterior) -> Posterior:
    """Copies: views of the batch would keep all of it in memory."""
    return Posterior(posterior.mean.clone(), posterior.std.clone())
