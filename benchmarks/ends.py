"""The two ends of a picture: what decoding takes and what tiles change, texts from the cache, and how fast pictures become files.

    python benchmarks/ends.py                 all of it, with the embedded model, a minute on an idle core
    python benchmarks/ends.py --only images   one part: images, memory, tiles, texts
    python benchmarks/ends.py --large         tiles and memory with a VAE as large as Stable Diffusion's, random weights; minutes

A thread's rate is a picture over the CPU time that it takes, which other processes on the machine change little; `threads` is what so
many of them do by the clock. What a GPU delivers at most: 5 to 16 pictures a second at 512x512, 1.6 to 3 at 1024x1024.
"""

import argparse
import functools
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor
from torch.profiler import ProfilerActivity, profile

from collodion.wire.jobs import OutputFormat, Parameters
from collodion.worker.config import WorkerConfig
from collodion.worker.families.tiles import Tiling, decoded_in_tiles
from collodion.worker.families.vae import Vae
from collodion.worker.families.vae_memory import working_bytes
from collodion.worker.images import encode, threads_for
from collodion.worker.models import load_models
from collodion.worker.pipeline import Picture
from common import ROOT, parser, report, spread

_ROUNDS = 5
_SIDES = (512, 1024)


def parameters(**fields: Any) -> Parameters:
    """A job of the embedded model."""
    sensible: dict[str, Any] = {
        "model": "shapes",
        "prompt": "a red circle",
        "negative_prompt": "",
        "width": 32,
        "height": 32,
        "steps": 20,
        "sampler": "ddim",
        "guidance_scale": 4.0,
        "seed": 1,
        "images": 1,
    }
    return Parameters(**{**sensible, **fields})


# ---------------------------------------------------------------------- pictures


def photograph(side: int, grain: float = 2.0) -> Picture:
    """Noise with the spectrum of photographs (amplitude over frequency), with some grain."""
    rng = np.random.default_rng(0)
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    frequencies[0, 0] = 1
    channels = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) / frequencies).real for _ in range(3)]
    stacked = np.stack(channels, axis=-1)
    scaled = (stacked - stacked.min()) / np.ptp(stacked) * 255 + rng.normal(size=stacked.shape) * grain
    made: Picture = scaled.clip(0, 255).astype(np.uint8)
    return made


def shapes(side: int) -> Picture:
    """Coloured circles with soft edges on a ground, as the embedded model draws them."""
    rng = np.random.default_rng(1)
    down, across = np.mgrid[:side, :side]
    picture = np.ones((side, side, 3)) * rng.uniform(0, 255, 3)
    for _ in range(6):
        top, left = rng.uniform(0.2, 0.8, 2) * side
        radius = rng.uniform(0.08, 0.2) * side
        inside = (1 / (1 + np.exp((np.hypot(down - top, across - left) - radius) / 2)))[..., None]
        picture = picture * (1 - inside) + inside * rng.uniform(0, 255, 3)
    made: Picture = picture.clip(0, 255).astype(np.uint8)
    return made


def images() -> dict[str, Any]:
    """How many pictures a second a thread makes files of, and how many two do (on cores that nobody else uses)."""
    figures: dict[str, Any] = {"threads_by_default": {cores: threads_for(cores) for cores in (2, 8, 16, 64)}}
    for side in _SIDES:
        figures[f"photograph {side}x{side}"] = files_of(photograph(side))
        figures[f"shapes {side}x{side}"] = files_of(shapes(side))
    return figures


def files_of(picture: Picture) -> dict[str, Any]:
    """The same of one picture; the formats interleaved, round by round."""
    side = len(picture)
    works: dict[str, Callable[[], bytes]] = {
        each: functools.partial(encode, picture, parameters(width=side, height=side, output_format=each))
        for each in OutputFormat
    }
    cpu: dict[str, list[float]] = {each: [] for each in works}
    scaling: dict[str, list[float]] = {each: [] for each in works}
    for _ in range(_ROUNDS):
        for each, work in works.items():
            cpu[each].append(1 / _cpu_seconds(work))
            scaling[each].append(1 / _rate(work, 1) * _rate(work, 2))
    return {
        each: {
            "a_second_of_cpu": spread(cpu[each]),
            "two_threads_over_one": spread(scaling[each]),
            "others_ran": _turns_of_others(work),
            "kilobytes": len(work()) // 1000,
        }
        for each, work in works.items()
    }


def _cpu_seconds(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def _turns_of_others(work: Callable[[], object]) -> int:
    """How often another thread had the interpreter meanwhile, though it never asks for it: 0 if the codec does not let go of it."""
    before, turns, over = sys.getswitchinterval(), 0, False

    def run() -> None:
        nonlocal turns
        while not over:
            turns += 1
            time.sleep(0.0002)

    other = threading.Thread(target=run)
    sys.setswitchinterval(1000)
    try:
        other.start()
        time.sleep(0.01)
        began = turns
        work()
        return turns - began
    finally:
        over = True
        sys.setswitchinterval(before)
        other.join()


def _rate(work: Callable[[], object], threads: int) -> float:
    """By the clock, of so many threads, two pictures each."""

    def twice() -> None:
        work()
        work()

    running = [threading.Thread(target=twice) for _ in range(threads)]
    began = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return 2 * threads / (time.perf_counter() - began)


# ---------------------------------------------------------------------- decoding


def embedded_vae() -> Vae:
    """The embedded model's."""
    module = AutoencoderKL.from_pretrained(ROOT / "worker" / "collodion" / "worker" / "shapes" / "vae")
    return Vae(module.eval(), VaeImageProcessor(), 4)


def large_vae() -> Vae:
    """As large as Stable Diffusion's."""
    torch.manual_seed(0)
    module = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=512,
    )
    return Vae(module.eval(), VaeImageProcessor(), 8)


def memory(vae: Vae, sides: Sequence[int]) -> dict[str, Any]:
    """What torch's allocator gave out at most while a latent was decoded, over what was counted beforehand."""
    counted = working_bytes(vae)
    figures: dict[str, Any] = {"counted_bytes_a_pixel": counted / vae.factor**2}
    for side in sides:
        latent = torch.randn(1, vae.channels, side, side)
        vae.decode(latent)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            vae.decode(latent)
        figures[f"{side * vae.factor}x{side * vae.factor}"] = {
            "counted_mib": counted * side**2 / 2**20,
            "taken_over_counted": _most_allocated(profiled) / (counted * side**2),
        }
    return figures


def _most_allocated(profiled: Any) -> int:
    allocated = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            allocated += event.nbytes()
            most = max(most, allocated)
    return most


def tiles(vae: Vae, sides: Sequence[int], latents: Callable[[int], torch.Tensor]) -> dict[str, Any]:
    """How much pictures in tiles differ from whole ones: peak signal to noise ratio, and the largest difference of 255."""
    figures: dict[str, Any] = {}
    for side in sides:
        latent = latents(side)
        whole = vae.decode(latent)
        for size in (32, 64):
            tiling = Tiling(size, size * 3 // 4)
            if not tiling.cuts(side, side):
                continue
            each_by_itself = torch.cat(list(decoded_in_tiles(vae.decode, latent, tiling, vae.factor)), dim=2)
            tiled = torch.cat(list(vae.decode_in_tiles(latent, tiling)), dim=2)
            pixels = side * vae.factor
            figures[f"{pixels}x{pixels} in tiles of {size * vae.factor}"] = {
                "ours": _difference(tiled, whole),
                "each normalised by itself": _difference(each_by_itself, whole),
            }
    return figures


def _difference(ours: torch.Tensor, expected: torch.Tensor) -> dict[str, float]:
    apart = (ours.clamp(-1, 1) - expected.clamp(-1, 1)) / 2
    return {
        "decibel": float(-10 * apart.square().mean().log10()),
        "largest_of_255": float(apart.abs().max() * 255),
        "mean_of_255": float(apart.abs().mean() * 255),
    }


def _encoded(vae: Vae) -> Callable[[int], torch.Tensor]:
    def latents(side: int) -> torch.Tensor:
        picture = torch.from_numpy(shapes(side * vae.factor)).permute(2, 0, 1)[None] / 127.5 - 1
        return vae.normalise(vae.encode(picture.float())[0].mean[None])

    return latents


def _made_up(vae: Vae) -> Callable[[int], torch.Tensor]:
    return lambda side: torch.randn(1, vae.channels, side, side, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------------- texts


def texts() -> dict[str, Any]:
    """Milliseconds of encoding the prompts of eight jobs, anew and from the cache; interleaved."""
    model = load_models(WorkerConfig(device="cpu"))[1]["shapes"]
    anew, cached = [], []
    for number in range(4 * _ROUNDS):
        jobs = [parameters(prompt=f"a red circle, {number} of {place}") for place in range(8)]
        plans = [model.prepare(job) for job in jobs]
        anew.append(1000 * model.encode(plans).span.wait())
        cached.append(1000 * model.encode(plans).span.wait())
    return {
        "anew_ms": spread(anew),
        "cached_ms": spread(cached),
        "share": statistics.median(cached) / statistics.median(anew),
    }


# ---------------------------------------------------------------------- all


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for."""
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    wanted = {options.only} if options.only else {"images", "memory", "tiles", "texts"}
    if "images" in wanted:
        figures["images"] = images()
    if "texts" in wanted:
        figures["texts"] = texts()
    with torch.inference_mode():
        if "memory" in wanted:
            figures["memory, embedded VAE"] = memory(embedded_vae(), (32, 64, 128))
            if options.large:
                figures["memory, large VAE"] = memory(large_vae(), (16, 32))
        if "tiles" in wanted:
            vae = embedded_vae()
            figures["tiles, embedded VAE"] = tiles(vae, (48, 80, 128, 256), _encoded(vae))
            if options.large:
                vae = large_vae()
                figures["tiles, large VAE with random weights"] = tiles(vae, (80,), _made_up(vae))
    return figures


if __name__ == "__main__":
    asked = parser(__doc__.splitlines()[0])
    asked.add_argument("--only", choices=("images", "memory", "tiles", "texts"))
    asked.add_argument("--large", action="store_true")
    given = asked.parse_args()
    report("ends", measure(given), given.json)
