"""The autoencoder: pictures to latents as the denoiser sees them, and back.

The denoiser sees a VAE's latent normalised: (latent - offset) · scale, each a number or one for every channel. What a configuration calls
shift_factor, scaling_factor, latents_mean and latents_std comes down to that.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from diffusers.image_processor import VaeImageProcessor

from collodion.worker.families.statistics import normalising_as, thinned
from collodion.worker.families.tiles import Tiling, decoded_in_tiles, tilings_of


class Posterior(NamedTuple):
    """What a picture was encoded to, before normalising: mean and standard deviation, (C, H, W) each, of the VAE's dtype."""

    mean: torch.Tensor
    std: torch.Tensor


class Vae:
    """An AutoencoderKL and its image processor; `factor` is how many pixels a latent pixel's side stands for."""

    def __init__(self, vae: Any, image_processor: Any, factor: int) -> None:
        self.factor = factor
        self.image_processor = image_processor
        # As the inpainting pipelines have it.
        self.mask_processor = VaeImageProcessor(
            vae_scale_factor=factor, do_normalize=False, do_binarize=True, do_convert_grayscale=True
        )
        self._vae = vae
        self._offset, self._scale = self._normalisation()

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        dtype: torch.dtype = self._vae.dtype
        return dtype

    @property
    def channels(self) -> int:
        """Of a latent."""
        config = self._vae.config
        return int(config.get("latent_channels") or config["z_dim"])

    @property
    def tilings(self) -> list[Tiling]:
        """How latents may be cut into tiles, the greatest first; none if they may not."""
        return tilings_of(self._vae)

    def without_weights(self) -> "Vae":
        """One that makes shapes of shapes: on torch's device `meta`."""
        with torch.device("meta"):
            made = type(self._vae).from_config(self._vae.config)
        twin = copy.copy(self)
        twin._vae = torch.nn.Module.to(made, self._vae.dtype)  # its own `to` gives advice
        twin._offset, twin._scale = self._offset.to("meta"), self._scale.to("meta")
        return twin

    def encode(self, pictures: torch.Tensor) -> list[Posterior]:
        """pictures: (N, 3, H, W) in -1..1."""
        encoded = self._encoded(pictures.to(self._vae.device, self._vae.dtype, non_blocking=True))
        return [Posterior(mean, std) for mean, std in zip(encoded.mean, encoded.std, strict=True)]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """latents: float32 (N, C, H, W), normalised. Returns (N, 3, H, W) around -1..1."""
        return self._decoded((latents / self._scale + self._offset).to(self._vae.dtype))

    def decode_in_tiles(self, latent: torch.Tensor, tiling: Tiling) -> Iterator[torch.Tensor]:
        """Rows of the picture, from above: (1, 3, height of the row, width), a row of tiles each. latent: float32 (1, C, H, W)."""
        with normalising_as(self._vae.decoder, lambda: self.decode(thinned(latent, tiling.size))):
            yield from decoded_in_tiles(self.decode, latent, tiling, self.factor)

    def normalise(self, latents: torch.Tensor) -> torch.Tensor:
        """latents: (..., C, H, W) as the VAE gives them. Returns float32."""
        return (latents.float() - self._offset) * self._scale

    def pixels(self, decoded: torch.Tensor) -> torch.Tensor:
        """From what `decode` gives to uint8 (N, H, W, 3)."""
        pixels: torch.Tensor = self.image_processor.postprocess(decoded, output_type="pt").float()
        return (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _encoded(self, pictures: torch.Tensor) -> Any:
        return self._vae.encode(pictures).latent_dist

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        decoded: torch.Tensor = self._vae.decode(latents, return_dict=False)[0]
        return decoded

    def _normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        config, device = self._vae.config, self._vae.device
        scale = torch.tensor(float(config.get("scaling_factor") or 1.0), device=device)
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and std is not None:
            return _per_channel(mean, device), scale / _per_channel(std, device)
        return torch.tensor(float(config.get("shift_factor") or 0.0), device=device), scale


def spatial_factor(config: Mapping[str, Any]) -> int:
    """Pixels on the side of a latent pixel, by a VAE's configuration."""
    return int(2 ** (len(config["block_out_channels"]) - 1))


def _per_channel(values: Any, device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
