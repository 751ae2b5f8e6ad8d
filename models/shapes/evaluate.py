"""Score the shipped pipeline on held-out prompts and lay out samples: `python -m models.shapes.evaluate`.

Rules of this file: the prompts come from scenes that were never trained on, in fixed order; prompt number i is drawn with seed i; the
sampler and its settings are those of the folder's collodion.json, which a request gets that names none. Two grids show the first 20
scenes: one with captions, one with numbers only, for naming blind.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image, ImageDraw, ImageFont

from models.shapes.captions import caption
from models.shapes.draw import Picture, Scene, sample
from models.shapes.export import SHIPPED
from models.shapes.judge import shows

SEED = 2027
"""Not the one with which sampler and guidance were chosen."""
PROMPTS = 200
SHOWN = 20
COLUMNS = 5
CELL = 160
LEGEND = 72
AT_ONCE = 50

Asked = tuple[Scene, str]


def held_out_prompts(count: int) -> list[Asked]:
    """The first `count` evaluation prompts, all different, with what they promise."""
    rng, asked = np.random.default_rng(SEED), dict[str, Scene]()
    while len(asked) < count:
        scene = sample(rng, held_out=True)
        asked.setdefault(caption(scene, rng), scene)
    return [(scene, words) for words, scene in asked.items()]


def generate(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], steps: int, guidance: float
) -> Iterator[Picture]:
    """A (32, 32, 3) uint8 picture for each prompt, by its place as seed."""
    for start in range(0, len(prompts), AT_ONCE):
        some = list(prompts[start : start + AT_ONCE])
        seeds = [torch.Generator().manual_seed(start + place) for place in range(len(some))]
        images = pipeline(some, num_inference_steps=steps, guidance_scale=guidance, generator=seeds).images
        yield from (np.asarray(image) for image in images)


def shown(asked: Sequence[Asked]) -> list[int]:
    """The places of the first SHOWN scenes that differ."""
    first = {scene: place for place, (scene, _) in reversed(list(enumerate(asked)))}
    return sorted(first.values())[:SHOWN]


def grid(pictures: Sequence[Picture], legends: Sequence[str]) -> Image.Image:
    """The pictures, enlarged without smoothing, each above its legend."""
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL + 8), rows * (CELL + LEGEND)), (128, 128, 128))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, (picture, legend) in enumerate(zip(pictures, legends, strict=True)):
        x, y = place % COLUMNS * (CELL + 8) + 4, place // COLUMNS * (CELL + LEGEND) + 4
        sheet.paste(Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.NEAREST), (x, y))
        pen.multiline_text((x, y + CELL + 2), _wrapped(legend), "white", font, spacing=2)
    return sheet


def _wrapped(legend: str) -> str:
    lines = [""]
    for word in legend.split():
        if len(lines[-1]) + len(word) > 24:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def scores(asked: Sequence[Asked], pictures: Sequence[Picture]) -> dict[str, tuple[int, int]]:
    """For each kind of scene and for all: how many pictures show it, of how many."""
    right: dict[str, list[bool]] = defaultdict(list)
    for (scene, _), picture in zip(asked, pictures, strict=True):
        verdict = shows(picture, scene)
        right[scene.kind].append(verdict)
        right["all"].append(verdict)
    return {kind: (sum(verdicts), len(verdicts)) for kind, verdicts in right.items()}


def main() -> None:
    """Read the flags, draw, judge, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=SHIPPED)
    parser.add_argument("--samples", type=Path, default=Path("docs/samples.png"))
    parser.add_argument("--blind", type=Path, default=Path(".work/shapes/blind.png"))
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    flags = parser.parse_args()
    pipeline = StableDiffusionPipeline.from_pretrained(flags.folder, dtype=torch.float32, safety_checker=None)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    asked = held_out_prompts(flags.prompts)
    pictures = list(generate(pipeline, [words for _, words in asked], flags.steps, flags.guidance))
    for kind, (right, of) in sorted(scores(asked, pictures).items()):
        print(f"{kind:8} {right:4} of {of:4}  {right / of:.1%}")
    places = shown(asked)
    for file, legends in (
        (flags.samples, [asked[place][1] for place in places]),
        (flags.blind, [str(number + 1) for number in range(SHOWN)]),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        grid([pictures[place] for place in places], legends).save(file)


if __name__ == "__main__":
    main()
