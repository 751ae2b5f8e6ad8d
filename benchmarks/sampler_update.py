"""The sampler update of a mixed step batch beside diffusers' own scheduler steps, row by row.

Both sides advance the same rows (samplers in turn, 20 steps each, some way on) by the same evaluations and draw the same
noise, in turns within one run; the figure is the ratio of the medians. LMS, whose scheduler integrates numerically in every
step, would flatter us, so it takes part only with --lms.

    python benchmarks/sampler_update.py --rows 1 4 16 64 --sizes 8 16 64 --json result.json
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import common
from collodion.worker.sampling.catalog import SAMPLERS
from collodion.worker.sampling.probing import probe
from collodion.worker.sampling.reference import Walk, build
from collodion.worker.sampling.trajectory import Trajectory
from collodion.worker.sampling.update import advance

CONFIG = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
STEPS = 20
WARM_UP = 4  # evaluations before the clock starts: every history is full
MEASURED = 12
LINE = "{rows:3d} rows of {size:2d}x{size:<2d}  ours {ours_ms:8.3f} ms  diffusers {diffusers_ms:8.3f} ms  ratio {ratio:5.1f}"


class Diffusers:
    """The same rows as trajectories, each with a scheduler of its own."""

    def __init__(self, names: list[str], shape: tuple[int, int, int], schedulers: dict[str, Any]) -> None:
        self.walks = [Walk(name, STEPS, schedulers[name]) for name in names]
        self.generators = [torch.Generator().manual_seed(seed) for seed in range(len(names))]
        self.latents = [
            torch.randn((1, *shape), generator=generator) * walk.init_noise_sigma
            for walk, generator in zip(self.walks, self.generators, strict=True)
        ]
        self.call = 0

    def advance(self, e: torch.Tensor) -> None:
        """One evaluation for every row, in turn."""
        for row, walk in enumerate(self.walks):
            self.latents[row] = walk.step(self.call, self.latents[row], e[row : row + 1], self.generators[row])
        self.call += 1

    def scale(self) -> None:
        """What a scheduler wants to be called before its step; not measured."""
        for walk, latent in zip(self.walks, self.latents, strict=True):
            walk.scale(self.call, latent)


def timed(action: Callable[[], None]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1e3


def compare(count: int, size: int, names: list[str], rounds: int) -> dict[str, Any]:
    """Medians in milliseconds for one update of `count` rows of (4, size, size)."""
    chosen = [names[row % len(names)] for row in range(count)]
    schedulers = {name: build(name, CONFIG) for name in set(chosen)}
    shape = (4, size, size)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        rows = [Trajectory.begin(probe(name, STEPS, CONFIG), seed, shape) for seed, name in enumerate(chosen)]
        reference = Diffusers(chosen, shape, schedulers)
        for call in range(WARM_UP + MEASURED):
            e = torch.randn((count, *shape))
            reference.scale()
            took = timed(partial(advance, rows, e)), timed(partial(reference.advance, e))
            if call >= WARM_UP:
                ours.append(took[0])
                theirs.append(took[1])
    ratio = statistics.median(theirs) / statistics.median(ours)
    return {
        "rows": count,
        "size": size,
        "ours_ms": round(statistics.median(ours), 4),
        "diffusers_ms": round(statistics.median(theirs), 4),
        "ratio": round(ratio, 1),
    }


def main() -> None:
    """Prints one line a case, then all of them with the environment."""
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16, 64], help="latents of 4 x SIZE x SIZE")
    parser.add_argument("--rounds", type=int, default=4, help=f"runs of {MEASURED} measured updates a case")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lms", action="store_true", help="let LMS take part")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    names = [name for name in SAMPLERS if arguments.lms or name != "lms"]
    cases = []
    with torch.inference_mode():
        for size in arguments.sizes:
            for count in arguments.rows:
                cases.append(compare(count, size, names, arguments.rounds))
                print(LINE.format(**cases[-1]))
    figures = {"threads": arguments.threads, "lms": arguments.lms, "cases": cases}
    common.report("sampler_update", figures, arguments.json)


if __name__ == "__main__":
    main()
