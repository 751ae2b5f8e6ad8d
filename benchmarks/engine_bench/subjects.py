"""What is measured: a model, and what is asked of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from collodion.process.config import ConfigError
from collodion.wire.jobs import Parameters
from collodion.worker.families.architecture import Architecture
from collodion.worker.families.catalog import architecture_of
from collodion.worker.models import EMBEDDED
from collodion.worker.registry import ModelSource, ModelUnusable, read_model
from collodion.worker.registry.loading import ReadParts, load_parts
from engine_bench.built import random_parts, write_configs
from engine_bench.recipes import RECIPES, recipe

SAMPLER = "euler"
"""One model call a step in every family, here and in diffusers, and no noise but the first."""
_PROMPTS = ("a red circle", "two small green squares", "a large blue triangle", "a yellow ring on a grey background")
_FIGURE_STEPS = {"middle": 10, "sd15": 50, "sdxl": 20, "sd3": 28, "flux": 28}
_SIZES = {"sd15": (512, 512), "sdxl": (1024, 1024), "sd3": (1024, 1024), "flux": (1024, 1024), "middle": (128, 128)}
_SCALES = {"middle": 7.5, "sd15": 7.5, "sdxl": 5.0, "sd3": 7.0, "flux": 3.5}
_STEPS = 20
_BATCHES = (1, 2, 4, 8)
_ALSO_STEPS = (20, 30, 50)
_FEW = {"middle": ((1, 8), ())}  # batches and other steps: it is measured on a CPU


@dataclass(frozen=True)
class Subject:
    """A model. parts: reads or draws its parts; random: the latter. size: width and height in pixels. steps: those of its figures.

    batches, also_steps: what else is measured unless something else is asked for.
    """

    name: str
    source: ModelSource
    parts: ReadParts
    random: bool
    size: tuple[int, int]
    steps: int
    guidance_scale: float
    sampler: str
    batches: tuple[int, ...]
    also_steps: tuple[int, ...]

    @property
    def architecture(self) -> type[Architecture]:
        """Its own."""
        found = architecture_of(self.source.pipeline)
        assert found is not None
        return found

    def parameters(self, number: int, steps: int, **changed: Any) -> Parameters:
        """Of picture `number`: its own prompt and seed."""
        width, height = self.size
        fields: dict[str, Any] = {
            "model": self.name,
            "prompt": f"{_PROMPTS[number % len(_PROMPTS)]}, number {number}",
            "negative_prompt": "blurred" if self.architecture.negative_prompts else "",
            "width": width,
            "height": height,
            "steps": steps,
            "sampler": self.sampler,
            "guidance_scale": self.guidance_scale,
            "seed": 1000 + number,
            "images": 1,
        }
        return Parameters(**{**fields, **changed})

    def jobs(self, count: int, steps: int, take: int = 0) -> list[Parameters]:
        """Of so many pictures. take: other prompts, as long and with the same seeds, so that nobody can remember them."""
        jobs = [self.parameters(number, steps) for number in range(count)]
        return [msgspec.structs.replace(job, prompt=f"{job.prompt} of {take}") for job in jobs]


def subject_of(
    word: str, folder: Path, describe: Callable[[ModelSource], Any], size: tuple[int, int] | None
) -> Subject:
    """shapes, one of the recipes' names, or NAME=/path of a folder or file. Raises ConfigError, ModelUnusable.

    folder: for configurations. describe: what a worker tells of a model, for what the word leaves open.
    """
    name, equals, path = word.partition("=")
    if equals or name == "shapes":
        source = read_model(Path(path).expanduser() if equals else EMBEDDED, name, {})
        parts: ReadParts = load_parts
    elif name in RECIPES:
        source, parts = write_configs(recipe(name), folder / name, name), random_parts
    else:
        raise ConfigError(f"models: {word!r} is neither shapes, nor {', nor '.join(RECIPES)}, nor NAME=/path")
    if architecture_of(source.pipeline) is None:
        raise ModelUnusable(f"{source.path} is a {source.pipeline}, which this version does not run")
    info = describe(source)
    native = info.native_width, info.native_height
    return Subject(
        name,
        source,
        parts,
        parts is random_parts,
        size or (_SIZES.get(name, native) if parts is random_parts else native),
        _FIGURE_STEPS.get(name, _STEPS),
        _SCALES.get(name, info.default_guidance_scale),
        SAMPLER if SAMPLER in info.samplers else info.default_sampler,
        *_FEW.get(name, (_BATCHES, _ALSO_STEPS)),
    )


def noises(
    subject: Subject, shape: tuple[int, int, int], dtype: torch.dtype, jobs: Sequence[Parameters]
) -> torch.Tensor:
    """What these latents begin with, as a model of this precision draws it: float32 (N, C, H, W), on the CPU."""
    drawn_in = subject.architecture.noise_dtype or dtype
    rows = [torch.randn((1, *shape), generator=torch.Generator().manual_seed(job.seed), dtype=drawn_in) for job in jobs]
    return torch.cat(rows).float()
