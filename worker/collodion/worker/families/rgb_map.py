"""The linear map from a latent to what its picture roughly looks like.

Fitted once per model by least squares against the model's own VAE: pictures of coloured patches are encoded, and each latent pixel
is paired with the mean colour of the square that it stands for. (The idea is Birch-san's and Erucipe's, who fitted such a matrix
for Stable Diffusion by hand.)
"""

import numpy as np
import torch
from numpy.typing import NDArray

from collodion.worker.families.vae import Vae

_PICTURES = 6
_PATCHES = 4  # a side
_LATENT_SIDE = 16
_RIDGE = 1e-4  # keeps a channel that says nothing of colour from being trusted
_SEED = 20261120


@torch.inference_mode()
def fit_rgb_map(vae: Vae) -> torch.Tensor:
    """float32 (channels + 1, 3) on the CPU: colour in 0..1 = [latent, 1] @ map, the latent as the denoiser sees it."""
    pictures = _patchwork(_LATENT_SIDE * vae.factor)
    encoded = vae.normalise(torch.stack([posterior.mean for posterior in vae.encode(pictures * 2 - 1)]))
    latents = encoded.cpu().permute(0, 2, 3, 1).flatten(0, 2)
    colours = torch.nn.functional.avg_pool2d(pictures, vae.factor).permute(0, 2, 3, 1).flatten(0, 2)
    inputs = torch.cat([latents, torch.ones(len(latents), 1)], dim=1).double()
    gram = inputs.T @ inputs
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    fitted: torch.Tensor = torch.linalg.solve(gram, inputs.T @ colours.double())
    return fitted.float()


def _patchwork(side: int) -> torch.Tensor:
    """Random colours in blocks, blended into each other in every second picture: (N, 3, side, side) in 0..1."""
    generator = torch.Generator().manual_seed(_SEED)
    colours = torch.rand((_PICTURES, 3, _PATCHES, _PATCHES), generator=generator)
    hard = torch.nn.functional.interpolate(colours[::2], size=(side, side), mode="nearest")
    soft = torch.nn.functional.interpolate(colours[1::2], size=(side, side), mode="bilinear")
    return torch.cat([hard, soft])


def to_rgb(latent: torch.Tensor, rgb_map: torch.Tensor) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) of a latent (C, H, W) on the CPU."""
    colours = torch.einsum("chw,cr->hwr", latent, rgb_map[:-1]) + rgb_map[-1]
    picture: NDArray[np.uint8] = (colours.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return picture
