"""How far a column's pictures are from float32: the same seeds, the same first noise, all steps."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from collodion.wire.jobs import Parameters
from engine_bench.clocks import release
from engine_bench.diffusers_side import DiffusersSide
from engine_bench.drawing import Contestant, Picture
from engine_bench.subjects import Subject, noises

PICTURES = 2


@dataclass(frozen=True, eq=False)
class Reference:
    """What diffusers' pipeline draws in float32 for these jobs. latents: float32 (N, C, H, W)."""

    jobs: Sequence[Parameters]
    latents: torch.Tensor
    pictures: Sequence[Picture]

    @classmethod
    def drawn(cls, subject: Subject, dtype: torch.dtype, place: torch.device, steps: int) -> "Reference":
        """From the noise that a model of `dtype` begins with. Raises MemoryError or torch.OutOfMemoryError."""
        jobs = subject.jobs(PICTURES, steps)
        side = DiffusersSide(subject, torch.float32, place, time.perf_counter)
        try:
            shape = subject.architecture(side.pipeline).latent_shape(jobs[0].width, jobs[0].height)
            with _exact():
                # One by one, as the columns will: float32 takes twice the memory.
                drawn = [side.draw([job], noise=noises(subject, shape, dtype, [job])) for job in jobs]
                latents = torch.cat([one.latents() for one in drawn])
        finally:
            side.close()
            release(place)
        return cls(jobs, latents, [one.pictures[0] for one in drawn])

    def compare(self, contestant: Contestant) -> dict[str, float | None]:
        """latent_error: norm of the difference over the norm; the worst picture's. psnr_db: of the worst picture, None if all are equal."""
        drawn = [contestant.draw([job]) for job in self.jobs]
        errors = [relative_error(one.latents()[0], other) for one, other in zip(drawn, self.latents, strict=True)]
        ratios = [psnr(one.pictures[0], other) for one, other in zip(drawn, self.pictures, strict=True)]
        return {"latent_error": max(errors), "psnr_db": min(ratios) if min(ratios) < math.inf else None}


def relative_error(mine: torch.Tensor, reference: torch.Tensor) -> float:
    """The norm of the difference over the reference's."""
    return float((mine - reference).norm() / reference.norm())


def psnr(mine: Picture, reference: Picture) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit pictures; infinite for equal ones."""
    error = float(np.mean((mine.astype(np.float64) - reference.astype(np.float64)) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


@contextmanager
def _exact() -> Iterator[None]:
    """Without TF32, which torch allows itself in convolutions."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
