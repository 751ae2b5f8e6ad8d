"""What a step cache by the latent gives, and how far its pictures are from those without one.

Pictures: the embedded model `shapes` draws eight latents in one batch, of different prompts and samplers, guided and not. Six of them have
permission, two have not, in turns with the same batch without any. For each threshold:

    reused     share of the evaluations of those with permission that used their deep part's output again
    time       of the whole batch, relative to the same without permission: median of pairs, which run one behind the other
    mean, …    distance of their pictures from those without, in 8-bit levels; PSNR in dB of the median picture and of the worst
    strangers  largest distance of the pictures of those without permission: what the others' caches do to them

The first line, "as 20", is for comparison: the same distances between so many steps and four fifths of them, for everybody.

Calls: what a model call costs in which a quarter, a half, … of the latents reuse, relative to the architecture's own call.

    python benchmarks/step_cache.py --json result.json
    python benchmarks/step_cache.py --device cuda --dtype float16 --models sd1 sdxl --thresholds    (calls alone; needs a GPU)
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray

import common
from adapters import CLOCKS, MODELS
from collodion.wire.jobs import PromptSyntax
from collodion.worker.families.architecture import Rows, Texts, collate, length
from collodion.worker.families.stable_diffusion import StableDiffusion
from collodion.worker.families.stable_diffusion_xl import StableDiffusionXL
from collodion.worker.sampling.probing import probe
from collodion.worker.sampling.trajectory import Trajectory
from collodion.worker.sampling.update import advance, model_inputs
from collodion.worker.step_cache.reuse import CachedLatent, Reuse, StepCache

SHAPES = common.ROOT / "worker/collodion/worker/shapes"
THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
PROMPTS = (
    "a large red circle on a blue background",
    "two blue squares",
    "a small green star",
    "a red ring and a black star on yellow",
    "three orange triangles",
    "a purple cross on white",
    "a yellow circle on black",
    "a green square and a red circle",
)
SAMPLERS = (
    "dpmpp_2m",
    "ddim",
    "euler",
    "unipc",
    "deis",
    "dpmpp_2m_karras",
    "lms",
    "dpmpp_3m",
)  # none draws noise: fewer steps would draw other noise
GUIDANCE = (5.0, 5.0, 3.0, 5.0, 1.0, 5.0, 7.5, 5.0)
STRANGERS = (3, 6)  # have no permission
LATENTS = 8
Clock = Callable[[], float]
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
HEADER = "steps  case    reused  time                    mean  largest  PSNR   worst  strangers"
LINE = (
    "{steps:5d}  {case:6s}  {reused:6.1%}  {median:5.3f} ({least:.3f} to {most:.3f})"
    "  {mean:5.2f}  {largest:7d}  {psnr:5.1f}  {worst:5.1f}  {strangers!s:>9}"
)
CALL = "{model:7s}  {share:4.0%} reuse  {median:5.3f} of a call without ({least:.3f} to {most:.3f}), which takes {call_ms:.2f} ms"


@dataclass(frozen=True)
class Drawing:
    """What one run made: pictures, uint8 (latents, H, W, 3), the share of evaluations reused, and seconds."""

    pictures: NDArray[np.uint8]
    reused: float
    seconds: float


class Drawer:
    """Draws the eight latents with `shapes`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        pipeline = StableDiffusionPipeline.from_pretrained(SHAPES, dtype=torch.float32, safety_checker=None)
        self._pipeline = StableDiffusion(pipeline)
        self._cache = StepCache(self._pipeline)
        self._config = dict(pipeline.scheduler.config)
        texts = [self._texts(prompt, scale) for prompt, scale in zip(PROMPTS, GUIDANCE, strict=True)]
        self._guided = [number for number, ours in enumerate(texts) if len(ours) > 1]
        rows = [*(ours[0] for ours in texts), *(texts[number][1] for number in self._guided)]
        self._order = [*range(LATENTS), *self._guided]
        self._collated, self._lengths = collate(rows, len(rows)), tuple(map(length, rows))
        self._scales = torch.tensor(GUIDANCE)
        places = {number: LATENTS + place for place, number in enumerate(self._guided)}
        self._rows_of = [(n, places[n]) if n in places else (n,) for n in range(LATENTS)]

    def draw(self, steps: int, threshold: float, seed: int) -> Drawing:
        """All of them, from this seed on, each by its own sampler; every sampler takes an evaluation a step."""
        tables = [probe(sampler, steps, self._config) for sampler in SAMPLERS]
        shape = self._pipeline.latent_shape(32, 32)
        rows = [Trajectory.begin(table, seed + number, shape) for number, table in enumerate(tables)]
        reuse: list[Reuse | None] = [None] * LATENTS
        asked = reused = 0
        began = self._clock()
        for call in range(len(tables[0])):
            may = call < len(tables[0]) - 1
            latents = [
                CachedLatent(self._rows_of[n], 0.0 if n in STRANGERS else threshold, reuse[n], may)
                for n in range(LATENTS)
            ]
            outputs, reuse = self._evaluate(rows, latents)
            advance(rows, outputs)
            asked += LATENTS - len(STRANGERS)
            reused += sum(one is not None and one.in_a_row > 0 for one in reuse)
        seconds = self._clock() - began
        return Drawing(self._pictures(rows), reused / asked, seconds)

    def _evaluate(
        self, rows: Sequence[Trajectory], latents: Sequence[CachedLatent]
    ) -> tuple[torch.Tensor, list[Reuse | None]]:
        inputs = model_inputs(rows)[self._order]
        timesteps = torch.tensor([rows[number].timestep for number in self._order])
        call = Rows(inputs, timesteps, self._collated, self._scales[self._order], self._lengths)
        predicted, kept = self._cache.predict(call, latents, lambda _: nullcontext())
        guided, scales = torch.tensor(self._guided), self._scales[self._guided, None, None, None]
        outputs = predicted[:LATENTS].clone()
        outputs[guided] = self._pipeline.guide(outputs[guided], predicted[LATENTS:], scales)
        return outputs, kept

    def _texts(self, prompt: str, scale: float) -> list[Texts]:
        read = self._pipeline.read([prompt, ""][: 2 if scale > 1 else 1], PromptSyntax.PLAIN, {}, ())
        return self._pipeline.encode_prompts(read, lambda *_: nullcontext(), 0)

    def _pictures(self, rows: Sequence[Trajectory]) -> NDArray[np.uint8]:
        decoded = self._pipeline.vae.decode(torch.stack([row.latent for row in rows]))
        return self._pipeline.vae.pixels(decoded).numpy()


def distance(ours: Sequence[Drawing], theirs: Sequence[Drawing]) -> dict[str, Any]:
    """Of those with permission, in 8-bit levels and dB; of the others, the largest."""
    pairs = zip(ours, theirs, strict=True)
    apart = np.stack([np.abs(one.pictures.astype(int) - other.pictures.astype(int)) for one, other in pairs])
    mine = np.delete(apart, STRANGERS, axis=1).reshape(-1, *apart.shape[2:])
    ratios = [10 * math.log10(255**2 / max(float((one**2).mean()), 1e-3)) for one in mine]
    return {
        "mean": float(mine.mean()),
        "largest": int(mine.max()),
        "psnr": statistics.median(ratios),
        "worst": min(ratios),
        "strangers": int(apart[:, list(STRANGERS)].max()),
    }


def pictures(steps: int, thresholds: Sequence[float], rounds: int, clock: Clock) -> Iterator[dict[str, Any]]:
    """A line for each threshold, and one for fewer steps. Each round has seeds of its own."""
    drawer, fewer = Drawer(clock), steps * 4 // 5
    seeds = [number * LATENTS for number in range(rounds)]
    drawer.draw(steps, 0.0, 0)
    for threshold in (None, *thresholds):
        off, drawn = [], []
        for seed in seeds:
            off.append(drawer.draw(steps, 0.0, seed))
            drawn.append(drawer.draw(fewer, 0.0, seed) if threshold is None else drawer.draw(steps, threshold, seed))
        times = [one.seconds / other.seconds for one, other in zip(drawn, off, strict=True)]
        reused = statistics.mean(one.reused for one in drawn)
        case = f"as {fewer}" if threshold is None else f"{threshold:g}"
        both = distance(drawn, off)
        if threshold is None:
            del both["strangers"]  # they have fewer steps, too
        yield {"steps": steps, "case": case, "reused": reused, **common.spread(times), **both}


class Caller:
    """A UNet of this name with random inputs: so many guided latents, two rows each."""

    def __init__(self, model: str, latents: int, device: str, dtype: torch.dtype, clock: Clock) -> None:
        self._clock = clock
        config, side = MODELS[model]
        torch.manual_seed(0)
        shapes = SHAPES / "unet"
        unet = UNet2DConditionModel.from_pretrained(shapes) if config is None else UNet2DConditionModel(**config)
        unet = unet.eval().requires_grad_(False).to(device, dtype)
        kind = StableDiffusionXL if unet.config.addition_embed_type else StableDiffusion
        self.architecture = kind.__new__(kind)
        vars(self.architecture).update(denoiser=unet, vae=SimpleNamespace(factor=8))  # all that a call asks for
        self.cache = StepCache(self.architecture)
        made = {
            "states": torch.randn(2 * latents, 77, unet.config.cross_attention_dim),
            "pooled": torch.randn(2 * latents, 1280),
        }
        self.rows = Rows(
            torch.randn(2 * latents, 4, side, side).to(device, dtype),
            torch.linspace(1, 900, 2 * latents).to(device),
            {name: tensor.to(device, dtype) for name, tensor in made.items()},
            torch.full((2 * latents,), 5.0, device=device),
            (77,) * (2 * latents),
        )
        first = [CachedLatent((place, latents + place), 1.0, None, may=True) for place in range(latents)]
        self._kept = self.cache.predict(self.rows, first, lambda _: nullcontext())[1]
        self._cuda = device.startswith("cuda")

    def latents(self, share: float) -> list[CachedLatent]:
        """So many of them reuse; the others take part, and have changed too much."""
        many = len(self._kept)
        thresholds = [1.0 if place < round(share * many) else 1e-9 for place in range(many)]
        changed = [kept and Reuse(kept.change * 2, kept.deep) for kept in self._kept]
        return [
            CachedLatent(
                (place, many + place), threshold, self._kept[place] if threshold == 1.0 else changed[place], may=True
            )
            for place, threshold in enumerate(thresholds)
        ]

    def timed(self, action: Callable[[], object]) -> float:
        """Milliseconds, the device's work included."""
        self._wait()
        began = self._clock()
        action()
        self._wait()
        return (self._clock() - began) * 1e3

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()


def calls(
    model: str, latents: int, rounds: int, device: str, dtype: torch.dtype, clock: Clock
) -> Iterator[dict[str, Any]]:
    """A line for each share of latents that reuse; they and the architecture's own call in turns."""
    caller = Caller(model, latents, device, dtype, clock)
    cases = {share: caller.latents(share) for share in SHARES}
    ratios: Mapping[float, list[float]] = {share: [] for share in SHARES}
    plain: list[float] = []
    for turn in range(-2, rounds):
        for share, given in cases.items():
            without = caller.timed(lambda: caller.architecture.predict(caller.rows))
            took = caller.timed(lambda given=given: caller.cache.predict(caller.rows, given, lambda _: nullcontext()))  # type: ignore[misc]
            if turn >= 0:
                ratios[share].append(took / without)
                plain.append(without)
    kept = caller._kept[0]
    for share, samples in ratios.items():
        figures = {"model": model, "latents": latents, "share": share, **common.spread(samples)}
        yield {**figures, "call_ms": statistics.median(plain), "kept_bytes_a_latent": kept.nbytes if kept else 0}


@torch.inference_mode()
def main() -> None:
    """See the module."""
    parser = common.parser(str(__doc__).splitlines()[0])
    parser.add_argument("--thresholds", nargs="*", type=float, default=THRESHOLDS, help="none: no pictures")
    parser.add_argument("--steps", nargs="+", type=int, default=(25, 50))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=("shapes", "middle"), help="of the calls")
    parser.add_argument("--latents", type=int, default=LATENTS, help="of a call")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a machine that others use, too")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    torch.set_num_threads(1)
    figures: dict[str, list[dict[str, Any]]] = {"pictures": [], "calls": []}
    print(HEADER)
    for steps in options.steps if options.thresholds else ():
        for line in pictures(steps, options.thresholds, options.rounds, clock):
            figures["pictures"].append(line)
            print(LINE.format(**{"strangers": "-", **line}), flush=True)
    for model in options.models:
        for line in calls(model, options.latents, options.rounds, options.device, getattr(torch, options.dtype), clock):
            figures["calls"].append(line)
            print(CALL.format(**line), flush=True)
    common.report("step_cache", figures, options.json)


if __name__ == "__main__":
    main()
