"""Tiny instances, for which the optimum can be known.

A device of the profile, one worker, 5 to 10 jobs of 3 to 8 evaluations and one image. Encode and decode are scaled by the mean number of
evaluations over 30: they weigh as much beside the steps as in pictures of 30 steps. Deadlines are an SLO scale times the standalone
time after the release. Offline, all are released at 0; online they come as a Poisson process. SLO scales and loads go round with the seed.
"""

import random
from dataclasses import dataclass
from enum import StrEnum

from simulation.fleets import Bounds, make_fleet
from simulation.instance import Device, Instance, KeyCosts, Request, standalone_s, work_s
from simulation.profiles import Profile
from simulation.workloads import key_of

_JOBS = 5, 10
_EVALUATIONS = 3, 8
_MEAN = sum(_EVALUATIONS) / 2
_USUAL_EVALUATIONS = 30


class Kind(StrEnum):
    """When jobs are released."""

    OFFLINE = "offline"
    ONLINE = "online"


_SLO_SCALES = {Kind.OFFLINE: (1.5, 2.0, 2.5, 3.0), Kind.ONLINE: (1.5, 2.0, 3.0, 5.0)}
_LOADS = 1.0, 1.5, 2.0


@dataclass(frozen=True, slots=True)
class Tiny:
    """One of them, and what it was drawn from. `load` is that of the Poisson process."""

    kind: Kind
    seed: int
    slo_scale: float
    load: float | None
    instance: Instance

    @property
    def name(self) -> str:
        """For people and files."""
        return f"{self.kind}-{self.seed}"


def make_tiny(profile: Profile, kind: Kind, seed: int) -> Tiny:
    """The instance of a seed."""
    chance = random.Random(f"{kind}/{seed}")
    slo_scale = _SLO_SCALES[kind][seed % 4]
    load = _LOADS[seed // 4 % 3] if kind is Kind.ONLINE else None
    key = key_of(profile.model, max(profile.sizes))
    device = _device(profile, key)
    moment, requests = 0.0, []
    for _ in range(chance.randint(*_JOBS)):
        evaluations = chance.randint(*_EVALUATIONS)
        if load is not None:
            moment += chance.expovariate(load / work_s(key, round(_MEAN), 1, device))
        slo_s = slo_scale * standalone_s(key, evaluations, 1, [device])
        requests.append(Request(moment, moment + slo_s, key, evaluations))
    return Tiny(kind, seed, slo_scale, load, Instance(tuple(requests), (device,)))


def _device(profile: Profile, key: str) -> Device:
    (device,) = make_fleet([profile], [1], [key], Bounds())
    costs, share = device.costs[key], _MEAN / _USUAL_EVALUATIONS
    scaled = KeyCosts(costs.scaled(share).encode, costs.step, costs.scaled(share).decode)
    return Device(device.name, device.kind, {key: scaled}, device.max_batch)
