"""One device and some jobs in whole ticks, as the solver wants them: costs and releases rounded down, deadlines up.

Rounding therefore only makes more schedules possible.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from simulation.instance import Device, Instance
from yardsticks.curves import packed, padded

TICKS_PER_S = 10_000


@dataclass(frozen=True, slots=True)
class Latent:
    """One image of a job, all of whose evaluations and decode lie between release and deadline."""

    job: int
    release: int
    deadline: int
    evaluations: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Latents in order of deadline, then of evaluations; costs by the number of latents, 0 at 0.

    `step` is padded, `decode` packed (`yardsticks.curves`), for as many latents as there are. `encode` is what an encode of one job takes.
    """

    latents: tuple[Latent, ...]
    step: tuple[int, ...]
    decode: tuple[int, ...]
    encode: int

    @property
    def begins(self) -> int:
        """The first release."""
        return min(latent.release for latent in self.latents)

    @property
    def ends(self) -> int:
        """The last deadline."""
        return self.latents[-1].deadline


def problem_of(instance: Instance, jobs: Sequence[int]) -> Problem:
    """These jobs of an instance. Raises ValueError unless it has one device and they one batch key."""
    requests = instance.requests
    keys = {requests[job].key for job in jobs}
    if len(instance.devices) != 1 or len(keys) != 1:
        raise ValueError("the exact optimum is known for one device and one batch key only")
    latents = sorted(
        (
            Latent(
                job,
                math.floor(requests[job].release * TICKS_PER_S),
                math.ceil(requests[job].deadline * TICKS_PER_S),
                requests[job].evaluations,
            )
            for job in jobs
            for _ in range(requests[job].images)
        ),
        key=lambda latent: (latent.deadline, latent.evaluations),
    )
    return _priced(tuple(latents), instance.devices[0], keys.pop())


def _priced(latents: tuple[Latent, ...], device: Device, key: str) -> Problem:
    costs = device.costs[key]
    step = _ticks(padded(costs.step, min(device.max_batch, len(latents))))
    decode = _ticks(padded(costs.decode, min(device.decode_batch, len(latents))))
    encode = _ticks(padded(costs.encode, device.encode_batch))
    return Problem(latents, step, tuple(packed(decode, len(latents))), encode[1])


def _ticks(costs: list[float]) -> tuple[int, ...]:
    return tuple(math.floor(seconds * TICKS_PER_S) for seconds in costs)
