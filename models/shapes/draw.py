"""Captioned pictures of flat shapes, drawn from formulas.

Rules of this file: a `Scene` says what the caption must say and nothing else; a scene's size and background are None when its
caption leaves them out, and are then drawn medium and on white (on black where a white thing stands on it). Every shape fills
the square of half side r around its centre, so that size means the same for all of them. One scene in ten, chosen by a
hash of its attributes, is held out: it is never trained on, in any wording.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Picture = NDArray[np.uint8]

SIDE = 32
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 30, 35),
    "orange": (255, 140, 0),
    "yellow": (255, 230, 40),
    "green": (25, 155, 60),
    "blue": (35, 80, 225),
    "purple": (150, 40, 175),
    "white": (255, 255, 255),
    "black": (10, 10, 10),
}
BACKGROUNDS = ("white", "black", "red", "yellow", "green", "blue")
RADII = {"small": 6.0, None: 9.0, "large": 12.5}
"""Half sides, in pixels, of a single thing; sizes are RADIUS_JITTER apart at most from these."""
RADIUS_JITTER = 0.5
CENTRES = {
    1: ((15.5, 15.5),),
    2: ((8.0, 15.5), (23.0, 15.5)),
    3: ((8.0, 8.5), (23.0, 8.5), (15.5, 22.5)),
}
CROWD_RADII = {2: 6.0, 3: 5.8}
CROWD_JITTER = {2: (0.7, 3.0), 3: (0.7, 1.0)}
HELD_OUT_ONE_IN = 10


@dataclass(frozen=True)
class Thing:
    """One coloured shape."""

    shape: str
    colour: str


@dataclass(frozen=True)
class Scene:
    """What a caption promises: one to three things, left to right and top to bottom, perhaps a size and a background."""

    things: tuple[Thing, ...]
    size: str | None = None
    background: str | None = None

    @property
    def kind(self) -> str:
        """`single`, `several` (equal things) or `pair` (two different things)."""
        if len(self.things) == 1:
            return "single"
        return "several" if len(set(self.things)) == 1 else "pair"

    @property
    def ground(self) -> str:
        """The background that is drawn."""
        if self.background is not None:
            return self.background
        return "black" if any(thing.colour == "white" for thing in self.things) else "white"

    @property
    def held_out(self) -> bool:
        """Whether this combination of attributes is kept away from training."""
        return zlib.crc32(repr(self).encode()) % HELD_OUT_ONE_IN == 0


def _box(x: Plane, y: Plane, half_width: float, half_height: float) -> Plane:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _circle(x: Plane, y: Plane, r: float) -> Plane:
    return np.hypot(x, y) - np.float32(r)


def _square(x: Plane, y: Plane, r: float) -> Plane:
    return _box(x, y, 0.9 * r, 0.9 * r)


def _triangle(x: Plane, y: Plane, r: float) -> Plane:
    flank: Plane = (2 * np.abs(x) - (y + r)) / 5**0.5
    distance: Plane = np.maximum(flank, y - 0.9 * r)
    return distance


def _cross(x: Plane, y: Plane, r: float) -> Plane:
    return np.minimum(_box(x, y, r, r / 3), _box(x, y, r / 3, r))


def _ring(x: Plane, y: Plane, r: float) -> Plane:
    return np.abs(np.hypot(x, y) - 0.75 * r) - np.float32(0.25 * r)


def _star(x: Plane, y: Plane, r: float) -> Plane:
    """Five points: each tenth of the turn is folded onto one edge from an outer to an inner corner."""
    outer, inner, tenth = 1.08 * r, 0.46 * r, np.pi / 5
    angle = np.arctan2(x, -(y - 0.09 * r))
    folded = np.abs((angle + tenth) % (2 * tenth) - tenth)
    distance = np.hypot(x, y - 0.09 * r)
    along, across = distance * np.cos(folded), distance * np.sin(folded)
    edge = np.array([inner * np.cos(tenth) - outer, inner * np.sin(tenth)])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    beyond: Plane = ((along - outer) * normal[0] + across * normal[1]).astype(np.float32)
    return beyond


SHAPES: dict[str, Callable[[Plane, Plane, float], Plane]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}


def coverage(shape: str, centre: tuple[float, float], radius: float) -> Plane:
    """How much of each pixel the shape covers: (SIDE, SIDE) float32 in 0..1, edges one pixel soft."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    distance = SHAPES[shape](x - np.float32(centre[0]), y - np.float32(centre[1]), radius)
    cover: Plane = np.clip(0.5 - distance, 0, 1).astype(np.float32)
    return cover


def _placements(scene: Scene, rng: np.random.Generator) -> list[tuple[tuple[float, float], float]]:
    """A centre and a half side for each thing of the scene."""
    many = len(scene.things)
    radius = (RADII[scene.size] if many == 1 else CROWD_RADII[many]) + rng.uniform(-RADIUS_JITTER, RADIUS_JITTER)
    reach = (min(4.0, 14.0 - radius),) * 2 if many == 1 else CROWD_JITTER[many]
    centres = (np.array(centre) + rng.uniform(-1, 1, 2) * reach for centre in CENTRES[many])
    return [((float(x), float(y)), radius) for x, y in centres]


def draw(scene: Scene, rng: np.random.Generator) -> tuple[Picture, Plane]:
    """The picture, (SIDE, SIDE, 3) uint8, and the share of each pixel that is not background, (SIDE, SIDE) float32."""
    canvas = np.full((SIDE, SIDE, 3), COLOURS[scene.ground], np.float32)
    foreground = np.zeros((SIDE, SIDE), np.float32)
    for thing, (centre, radius) in zip(scene.things, _placements(scene, rng), strict=True):
        cover = coverage(thing.shape, centre, radius)
        canvas += cover[..., None] * (np.array(COLOURS[thing.colour], np.float32) - canvas)
        foreground = np.maximum(foreground, cover)
    return np.rint(canvas).astype(np.uint8), foreground


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _things(rng: np.random.Generator) -> tuple[Thing, ...]:
    shapes, colours, kind = tuple(SHAPES), tuple(COLOURS), rng.random()
    first = Thing(_pick(rng, shapes), _pick(rng, colours))
    if kind < 0.55:
        return (first,)
    if kind < 0.80:
        return (first,) * int(rng.integers(2, 4))
    return (first, Thing(_pick(rng, shapes), _pick(rng, colours)))


def sample(rng: np.random.Generator, *, held_out: bool) -> Scene:
    """A random scene from the training part or from the held-out part."""
    while True:
        things = _things(rng)
        sizes = (None, "small", "large") if len(things) == 1 else (None,)
        size = sizes[int(rng.integers(len(sizes)))]
        background = None if rng.random() < 0.2 else _pick(rng, BACKGROUNDS)
        scene = Scene(things, size, background)
        if all(thing.colour != scene.ground for thing in things) and scene.held_out == held_out:
            return scene
