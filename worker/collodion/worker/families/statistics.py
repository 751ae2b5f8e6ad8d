"""Tiles that are normalised as the whole picture would be.

A group normalisation takes mean and variance over all pixels that it is given. From a tile alone it would take the tile's: a piece of
plain background would be stretched until it looked like something, and every tile would have other colours. So mean and variance of every
layer are taken from the whole latent, thinned out to a tile's size, and are the same for all tiles. ("Fast mode" of Multidiffusion
Upscaler for Automatic1111's Tiled VAE does likewise.)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import batch_norm, interpolate


class _Statistics(NamedTuple):
    """float32, of each channel; those of one group are equal."""

    mean: torch.Tensor
    variance: torch.Tensor


def thinned(latents: torch.Tensor, size: int) -> torch.Tensor:
    """Some of the pixels of latents (N, C, H, W), evenly spread: at most `size` on a side. An average of several would be no latent."""
    height, width = (min(size, length) for length in latents.shape[2:])
    return interpolate(latents, size=(height, width), mode="nearest-exact")


@contextmanager
def normalising_as(decoder: nn.Module, decode: Callable[[], object]) -> Iterator[None]:
    """Within, every group normalisation of this decoder uses the mean and variance that it meets in `decode()`, of a single latent.

    Whatever was put in the place of the decoder's `forward` is not used: what was captured knows nothing of this.
    """
    norms = [module for module in decoder.modules() if isinstance(module, nn.GroupNorm)]
    if not norms:
        yield
        return
    replaced = decoder.__dict__.pop("forward", None)
    try:
        met: dict[nn.GroupNorm, _Statistics] = {}
        for norm in norms:
            norm.forward = _noting(norm, met)  # type: ignore[method-assign, assignment]
        decode()
        for norm, statistics in met.items():
            norm.forward = _using(norm, statistics)  # type: ignore[method-assign, assignment]
        yield
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)
        if replaced is not None:
            decoder.forward = replaced


def _noting(norm: nn.GroupNorm, met: dict[nn.GroupNorm, _Statistics]) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(given: torch.Tensor) -> torch.Tensor:
        groups = given.float().reshape(norm.num_groups, -1)  # of a single latent
        variance, mean = torch.var_mean(groups, dim=1, correction=0)
        each = norm.num_channels // norm.num_groups
        met[norm] = _Statistics(mean.repeat_interleave(each), variance.repeat_interleave(each))
        return nn.GroupNorm.forward(norm, given)

    return forward


def _using(norm: nn.GroupNorm, statistics: _Statistics) -> Callable[[torch.Tensor], torch.Tensor]:
    mean, variance = statistics
    weight = None if norm.weight is None else norm.weight.float()
    bias = None if norm.bias is None else norm.bias.float()
    return lambda given: batch_norm(given, mean, variance, weight, bias, eps=norm.eps)
