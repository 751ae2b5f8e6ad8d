"""Workloads: from settings and a seed to an instance.

1. What is asked for (steps, sizes, images, tenants, tiers) and the shape of the arrivals come from the seed alone. A load stretches the
   time between arrivals, an SLO scale moves the deadlines: so all cells of a seed ask for the same pictures.
2. The rate is the load times the sum over devices of (requests / device's seconds for all of them): offered work over capacity at the
   best batch sizes. A burst at zero and a flood come on top.
3. An SLO is the scale times the request's standalone time, times its tier's own factor.
4. A flood of factor f is tenant 0 asking for f times its share: the other tenants' requests stay what and when they are without it.
"""

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from simulation.arrivals import gamma_moments, mean_gap_s, window_moments, window_of
from simulation.instance import Device, Instance, Request, standalone_s, work_s
from simulation.traces import Arrival

_Option = TypeVar("_Option")

TRACE_IMAGES = ((1, 0.58), (2, 0.08), (4, 0.19), (8, 0.15))
"""Images a request in GenTD26, and their shares."""

MIXED = ((512, 20, 0.15), (768, 20, 0.25), (1024, 25, 0.45), (1536, 35, 0.15))
"""Sizes in pixels with their steps and shares: the mixed workload."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A share of the requests asks for this tier; its SLO is `factor` times the cell's, None for no deadline."""

    name: str
    share: float
    factor: float | None = 1.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked for, and how it comes.

    `shapes` are (size in pixels, least steps, most steps, share); `images` are (images, share). `cv` is the coefficient of
    variation of the times between arrivals (Gamma; 1 is Poisson). With a `trace` its arrivals are taken instead, `jobs` in a row from a
    place that the seed chooses, and its steps, images and tenants where it has them and `traced` names them. `recorded` keeps the trace's
    own times, whatever load that is.
    """

    jobs: int
    model: str
    shapes: tuple[tuple[int, int, int, float], ...] = ((512, 30, 30, 1.0),)
    images: tuple[tuple[int, float], ...] = ((1, 1.0),)
    cv: float = 1.0
    trace: tuple[Arrival, ...] = ()
    traced: frozenset[str] = frozenset({"steps", "images"})
    recorded: bool = False
    tenants: int = 1
    flood: float = 1.0
    tiers: tuple[Tier, ...] = (Tier("standard", 1.0),)
    burst: int = 0

    def keys(self) -> tuple[str, ...]:
        """The batch keys that it asks for."""
        return tuple(key_of(self.model, size) for size, _, _, _ in self.shapes)


@dataclass(frozen=True, slots=True)
class _Wish:
    """A request before it has its time."""

    key: str
    steps: int
    images: int
    tenant: str
    tier: Tier


def key_of(model: str, size: int) -> str:
    """The batch key of square pictures."""
    return f"{model}/{size}x{size}"


def make_instance(
    workload: Workload, devices: tuple[Device, ...], load: float, slo_scale: float, seed: int
) -> Instance:
    """The requests of a workload at a load, for these devices."""
    window = window_of(workload.trace, workload.jobs, f"{seed}/window")
    steady = [_wish(workload, window, index, f"{seed}") for index in range(workload.jobs)]
    rate = 1 / mean_gap_s(window) if workload.recorded else _rate(steady, devices, load)
    unit = window_moments(window) if window else gamma_moments(workload.cv, f"{seed}/gaps")
    timed = [(moment / rate, wish) for moment, wish in zip(unit, steady, strict=False)]  # drawn moments have no end
    end = timed[-1][0] if timed else 0.0
    timed += [(0.0, _wish(workload, (), index, f"{seed}/burst")) for index in range(workload.burst)]
    if workload.flood > 1.0:
        timed += _flood(workload, rate, end, seed)
    timed.sort(key=lambda pair: pair[0])
    alone = _Alone(devices)
    return Instance(tuple(_request(when, wish, alone, slo_scale) for when, wish in timed), devices)


def _wish(workload: Workload, window: tuple[Arrival, ...], index: int, stream: str) -> _Wish:
    # A stream for each request: what it asks for does not depend on how many come before it.
    chance = random.Random(f"{stream}/{index}")
    size, least, most, _ = _drawn(chance, workload.shapes, lambda shape: shape[3])
    steps = chance.randint(least, most)
    images, _ = _drawn(chance, workload.images, lambda each: each[1])
    tier = _drawn(chance, workload.tiers, lambda each: each.share)
    tenant = f"tenant-{chance.randrange(workload.tenants)}"
    if window:
        row, traced = window[index], workload.traced
        steps = row.steps if row.steps and "steps" in traced else steps
        images = row.images if row.images and "images" in traced else images
        tenant = row.tenant if row.tenant and "tenants" in traced else tenant
    return _Wish(key_of(workload.model, size), steps, images, tenant, tier)


def _rate(wishes: list[_Wish], devices: tuple[Device, ...], load: float) -> float:
    """Arrivals a second at this load; devices that cannot run everything count with what they can."""
    per_second = 0.0
    for device in devices:
        costs = {key: _works(key, wishes, device) for key in {wish.key for wish in wishes}}
        per_second += len(wishes) / sum(costs.values()) if wishes else 1.0
    return load * per_second


def _works(key: str, wishes: list[_Wish], device: Device) -> float:
    shapes: dict[tuple[int, int], int] = {}
    for wish in wishes:
        if wish.key == key:
            shapes[wish.steps, wish.images] = shapes.get((wish.steps, wish.images), 0) + 1
    return sum(count * work_s(key, steps, images, device) for (steps, images), count in shapes.items())


def _flood(workload: Workload, rate: float, end: float, seed: int) -> list[tuple[float, _Wish]]:
    extra = rate * (workload.flood - 1.0) / workload.tenants
    timed = []
    for index, moment in enumerate(gamma_moments(workload.cv, f"{seed}/flood gaps")):
        if (when := moment / extra) > end:
            break
        asked = _wish(workload, (), index, f"{seed}/flood")
        timed.append((when, dataclasses.replace(asked, tenant="tenant-0")))
    return timed


class _Alone:
    """Standalone times, each computed once."""

    def __init__(self, devices: tuple[Device, ...]) -> None:
        self._devices = tuple({device.kind: device for device in devices}.values())
        self._known: dict[tuple[str, int, int], float] = {}

    def seconds(self, wish: _Wish) -> float:
        shape = wish.key, wish.steps, wish.images
        if shape not in self._known:
            self._known[shape] = standalone_s(*shape, self._devices)
        return self._known[shape]


def _request(when: float, wish: _Wish, alone: _Alone, slo_scale: float) -> Request:
    tier = wish.tier
    slo_s = math.inf if tier.factor is None else slo_scale * tier.factor * alone.seconds(wish)
    return Request(when, when + slo_s, wish.key, wish.steps, wish.images, tier.weight, wish.tenant, tier.name)


def _drawn(chance: random.Random, options: Sequence[_Option], share: Callable[[_Option], float]) -> _Option:
    return chance.choices(options, [share(option) for option in options])[0]
