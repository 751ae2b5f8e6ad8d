"""Say what a picture shows, by its pixels, and whether that is what a scene promised.

Rules of this file: no network, and the picture is read without knowing the prompt. The background is the palette colour most frequent along
the border. What is at least 60 levels away from it falls into connected parts; parts of fewer than 8 pixels are ignored. A part's
colour is the palette colour nearest to the median of its inner pixels; its shape is that of the best overlapping true shape among
those of about its extent, and a part that overlaps none by 0.8 has no shape. Only stated attributes are judged: number, shapes and
colours always, size and background where the scene names them; order never.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from models.shapes.draw import COLOURS, RADII, SHAPES, SIDE, Picture, Plane, Scene, Thing, coverage

Mask = NDArray[np.bool_]

LEAST_CONTRAST = 60.0
LEAST_PIXELS = 8
LEAST_OVERLAP = 0.8
PLAIN_BORDER = 0.9
"""The least share of border pixels that must be of the background's colour; they may be touched by a large thing."""
PALETTE = np.array(list(COLOURS.values()), np.float32)
SMALL_BELOW = (RADII["small"] + RADII[None]) / 2
LARGE_ABOVE = (RADII[None] + RADII["large"]) / 2


@dataclass(frozen=True)
class Seen:
    """One part of a picture: what it looks most like, its half side in pixels, and how well it overlaps that shape (0..1)."""

    thing: Thing
    radius: float
    overlap: float

    @property
    def size(self) -> str | None:
        """`small`, `large`, or None between them."""
        return "small" if self.radius < SMALL_BELOW else "large" if self.radius > LARGE_ABOVE else None


@dataclass(frozen=True)
class Sight:
    """A whole picture: its background (None where the border is not of one colour) and its parts."""

    background: str | None
    parts: tuple[Seen, ...]


def _nearest(pixels: NDArray[np.float32]) -> NDArray[np.intp]:
    """The index of the palette colour nearest to each pixel: (..., 3) to (...)."""
    return np.asarray(np.linalg.norm(pixels[..., None, :] - PALETTE, axis=-1).argmin(-1))


def _ground(picture: NDArray[np.float32]) -> tuple[int, bool]:
    """The palette index most frequent along the border, and whether nearly all of the border has it."""
    border = np.concatenate([picture[0], picture[-1], picture[1:-1, 0], picture[1:-1, -1]])
    counts = np.bincount(_nearest(border), minlength=len(PALETTE))
    return int(counts.argmax()), bool(counts.max() >= PLAIN_BORDER * len(border))


def _grown(mask: Mask) -> Mask:
    """The mask and its eight neighbours."""
    padded = np.pad(mask, 1)
    near: Mask = np.any([padded[y : y + SIDE, x : x + SIDE] for y, x in product(range(3), range(3))], axis=0)
    return near


def _components(mask: Mask) -> Iterator[Mask]:
    """The eight-connected parts of at least LEAST_PIXELS pixels."""
    left = mask.copy()
    while left.any():
        part = np.zeros_like(left)
        part.flat[int(left.argmax())] = True
        while (grown := _grown(part) & left).sum() > part.sum():
            part = grown
        left &= ~part
        if part.sum() >= LEAST_PIXELS:
            yield part


def _colour(picture: NDArray[np.float32], ground: NDArray[np.float32], part: Mask) -> NDArray[np.float32]:
    """The median of the half of the part's pixels that is farthest from the background's colour: (3,)."""
    pixels = picture[part]
    distance = np.linalg.norm(pixels - ground, axis=-1)
    return np.asarray(np.median(pixels[distance >= np.median(distance)], axis=0), np.float32)


def _share(picture: NDArray[np.float32], ground: NDArray[np.float32], colour: NDArray[np.float32], part: Mask) -> Plane:
    """How much of each pixel in and next to the part has its colour rather than the background's: (SIDE, SIDE), 0..1."""
    axis = colour - ground
    share = (picture - ground) @ axis / max(float(axis @ axis), 1.0)
    return np.where(_grown(part), np.clip(share, 0, 1), 0).astype(np.float32)


Fit = tuple[float, str, float, float, float]
"""Overlap (the sum of minima over the sum of maxima), shape, centre and half side."""


def _fit(share: Plane, shapes: Iterable[str], middle: tuple[float, float], half: float, reach: float) -> Fit:
    """The best of the shapes among those whose centre and half side are up to `reach` pixels away from the given."""
    offsets, fits = (-reach, 0.0, reach), []
    for shape, dx, dy, grown in product(shapes, offsets, offsets, offsets):
        x, y, radius = middle[0] + dx, middle[1] + dy, half + grown
        cover = coverage(shape, (x, y), radius)
        overlap = float(np.minimum(cover, share).sum() / np.maximum(cover, share).sum())
        fits.append((overlap, shape, x, y, radius))
    return max(fits)


def _best_shape(share: Plane) -> tuple[str, float, float]:
    """The shape that overlaps best, its half side and the overlap; a coarse search for all, then a fine one for the winner."""
    rows, columns = np.nonzero(share > 0.5)
    if len(rows) == 0:
        return next(iter(SHAPES)), 0.0, 0.0
    (top, bottom), (left, right) = (rows.min(), rows.max()), (columns.min(), columns.max())
    middle, half = (float(left + right) / 2, float(top + bottom) / 2), float(max(bottom - top, right - left)) / 2 + 1.0
    _, shape, x, y, radius = _fit(share, SHAPES, middle, half, 0.5)
    overlap, shape, _, _, radius = _fit(share, (shape,), (x, y), radius, 0.25)
    return shape, radius, overlap


def look(picture: Picture) -> Sight:
    """Describe an RGB picture, (SIDE, SIDE, 3) uint8."""
    pixels = picture.astype(np.float32)
    index, plain = _ground(pixels)
    ground, names = PALETTE[index], tuple(COLOURS)
    parts = []
    for part in _components(np.linalg.norm(pixels - ground, axis=-1) > LEAST_CONTRAST):
        colour = _colour(pixels, ground, part)
        shape, radius, overlap = _best_shape(_share(pixels, ground, colour, part))
        parts.append(Seen(Thing(shape, names[int(_nearest(colour))]), radius, overlap))
    return Sight(names[index] if plain else None, tuple(parts))


def shows(picture: Picture, scene: Scene) -> bool:
    """Whether the picture has every attribute that the scene states, and nothing besides."""
    sight = look(picture)
    things = Counter(seen.thing for seen in sight.parts if seen.overlap >= LEAST_OVERLAP)
    return (
        len(sight.parts) == len(scene.things)
        and things == Counter(scene.things)
        and (scene.size is None or sight.parts[0].size == scene.size)
        and (sight.background == scene.background if scene.background else sight.background is not None)
    )
