"""A picture decoded in tiles that overlap, so that memory is needed for one row of them and not for all of it.

As diffusers' `tiled_decode` does it, with its sizes and strides: where two tiles overlap the one fades into the other. In four things it
is done in another way. All tiles are of full size, as many as are needed, evenly spread: there a narrow one ends each line, which is
decoded worst. None is smaller than 64x64 latent pixels. Only one row of tiles is kept at a time, and each is handed out as soon as it is
done, so that somebody else can have the device between two of them. A fade is a few operations, and not four for each line of pixels.

A decoder's normalisation and attention take in all that they are given, so what a tile becomes depends on where it was cut: pictures
change. How much, `benchmarks/ends.py` says; what is done against it is in `statistics`.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

Decode = Callable[[torch.Tensor], torch.Tensor]
"""(N, C, H, W) latents to (N, 3, factor · H, factor · W) pixels, in new memory."""

_LEAST = 64  # of a tile's side: smaller ones say less of the picture that they are of


class Tiling(NamedTuple):
    """In latent pixels. size: a tile's side. stride: from where one begins to where the next one does, at most."""

    size: int
    stride: int

    def cuts(self, height: int, width: int) -> bool:
        """Whether a latent of this size becomes more than one tile."""
        return max(height, width) > self.size

    def spans(self, length: int) -> list[tuple[int, int]]:
        """Where tiles begin and end on a side of this length."""
        if length <= self.size:
            return [(0, length)]
        gaps = math.ceil((length - self.size) / self.stride)
        begins = [round(place * (length - self.size) / gaps) for place in range(gaps + 1)]
        return [(begin, begin + self.size) for begin in begins]


def tilings_of(vae: Any) -> list[Tiling]:
    """How latents of this autoencoder may be cut, the greatest tiles first: diffusers', then the smallest. None for one of a class that
    diffusers cuts none for."""
    if hasattr(vae, "tile_latent_min_size"):
        size, stride = vae.tile_latent_min_size, int(vae.tile_latent_min_size * (1 - vae.tile_overlap_factor))
    elif hasattr(vae, "tile_sample_stride_height"):
        size, stride = (
            pixels // vae.spatial_compression_ratio
            for pixels in (vae.tile_sample_min_height, vae.tile_sample_stride_height)
        )
    else:
        return []
    smallest = Tiling(_LEAST, _LEAST * 3 // 4)
    return [Tiling(size, max(1, stride)), smallest] if size > _LEAST else [smallest]


def decoded_in_tiles(decode: Decode, latents: torch.Tensor, tiling: Tiling, factor: int) -> Iterator[torch.Tensor]:
    """Rows of the pictures, from above, each (N, 3, height of the row, factor · W); one row of tiles is decoded for each.

    latents: (N, C, H, W). factor: pixels on a latent pixel's side.
    """
    rows, columns = (tiling.spans(length) for length in latents.shape[2:])
    above: list[torch.Tensor] = []
    for number, (top, bottom) in enumerate(rows):
        tiles = [decode(latents[:, :, top:bottom, left:right]) for left, right in columns]
        if number:
            overlap = (rows[number - 1][1] - top) * factor
            for over, tile in zip(above, tiles, strict=True):
                _fade(over, tile, 2, overlap)
        for place in range(1, len(tiles)):
            _fade(tiles[place - 1], tiles[place], 3, (columns[place - 1][1] - columns[place][0]) * factor)
        widths = _kept(columns, factor)
        height = _kept(rows, factor)[number]
        yield torch.cat([tile[:, :, :height, :width] for tile, width in zip(tiles, widths, strict=True)], dim=3)
        above = tiles


def _kept(spans: list[tuple[int, int]], factor: int) -> list[int]:
    """Pixels of each tile that come before the next one."""
    begins = [begin for begin, _ in spans]
    return [(after - begin) * factor for begin, after in zip(begins, [*begins[1:], spans[-1][1]], strict=True)]


def _fade(before: torch.Tensor, tile: torch.Tensor, axis: int, overlap: int) -> None:
    """Puts what `before` fades into where it overlaps the beginning of the tile, which is written into."""
    weights = torch.arange(overlap, device=tile.device, dtype=torch.float32) / overlap
    shape = [1, 1, 1, 1]
    shape[axis] = overlap
    begin, end = tile.narrow(axis, 0, overlap), before.narrow(axis, before.shape[axis] - overlap, overlap)
    begin.copy_(torch.lerp(end.float(), begin.float(), weights.view(shape)))
