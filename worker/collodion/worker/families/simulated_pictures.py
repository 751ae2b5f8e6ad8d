"""What simulated models draw: a gradient between two colours, with grain, over the picture that the job begins from.

A picture depends on all that determines a real one (prompts, seed, size, adapters, what it begins from), and on nothing else.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collodion.wire.jobs import Parameters, PromptSyntax
from collodion.worker.pipeline import Picture
from collodion.worker.uploads import Uploads

_GRAIN = 16  # of 255; without it a large picture would compress to nothing, which no real one does


@dataclass(frozen=True, eq=False)
class Scene:
    """What a job begins from, at the size of its pictures. mask: float32 (H, W, 1), 1 where it is to be redrawn."""

    picture: Picture
    mask: NDArray[np.float32]

    @classmethod
    def read(cls, parameters: Parameters, uploads: Uploads) -> "Scene | None":
        """None for a job that begins from noise. Raises LatentRefused."""
        if not parameters.init_image:
            return None
        size = parameters.width, parameters.height
        picture = np.asarray(uploads.picture(parameters.init_image).resize(size))
        if not parameters.mask_image:
            return cls(picture, np.ones((*picture.shape[:2], 1), np.float32))
        mask = np.asarray(uploads.mask(parameters.mask_image).resize(size))
        return cls(picture, (mask >= 128).astype(np.float32)[..., None])


def draw(parameters: Parameters, seed: int, scene: Scene | None = None) -> Picture:
    """The picture of these parameters. The strength says how much of it lies over the scene."""
    generator = _generator(parameters, seed)
    picture = _gradient(generator, parameters.height, parameters.width)
    picture += generator.integers(0, _GRAIN, picture.shape, dtype=np.uint8)
    if scene is None:
        return picture
    share = scene.mask * np.float32(parameters.strength)
    mixed: Picture = (scene.picture * (1 - share) + picture * share).round().astype(np.uint8)
    return mixed


def sketch(parameters: Parameters, seed: int, side: int, done: float) -> Picture:
    """A preview, a square of this side: noise that gives way to the picture as `done` goes from 0 to 1."""
    picture = _gradient(_generator(parameters, seed), side, side)
    noise = np.random.default_rng(seed).integers(0, 256, picture.shape)
    mixed: Picture = (picture * done + noise * (1 - done)).astype(np.uint8)
    return mixed


def _generator(parameters: Parameters, seed: int) -> np.random.Generator:
    text = f"{parameters.prompt}\0{parameters.negative_prompt}\0{seed}"
    if parameters.prompt_syntax is not PromptSyntax.PLAIN:
        text += f"\0{parameters.prompt_syntax}"
    text += "".join(f"\0{lora.name}\0{lora.scale}" for lora in parameters.loras)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def _gradient(generator: np.random.Generator, height: int, width: int) -> Picture:
    near, far = generator.integers(0, 256 - _GRAIN, (2, 3))
    slope: NDArray[np.float64] = np.add.outer(np.linspace(0, 0.5, height), np.linspace(0, 0.5, width))[..., None]
    gradient: Picture = (near + (far - near) * slope).astype(np.uint8)
    return gradient
