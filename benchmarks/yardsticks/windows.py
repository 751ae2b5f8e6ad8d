"""When each job's work can be done, and on how many devices of each sort."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from simulation.instance import Device, Instance, KeyCosts, Request
from yardsticks.curves import padded

_ROUNDING_S = 1e-9


@dataclass(frozen=True, slots=True)
class Curves:
    """Padded costs of one key on one device, seconds by batch size."""

    encode: list[float]
    step: list[float]
    decode: list[float]


@dataclass(frozen=True, slots=True)
class Group:
    """Devices that are alike."""

    devices: int
    curves: dict[str, Curves]


@dataclass(frozen=True, slots=True)
class Window:
    """A job with a deadline. It lives from `release` to `deadline`; its evaluations are made from `opens` to `closes`.

    Between release and `opens` lies an encode, between `closes` and the deadline a decode, alone and on the fastest device:
    nothing is sooner. `least_s` is the shortest evaluation; `beside_s` is the device time of encode and decodes at their best sizes.
    """

    index: int
    key: str
    images: int
    evaluations: int
    release: float
    deadline: float
    opens: float
    closes: float
    least_s: float
    beside_s: float

    @property
    def possible(self) -> bool:
        """Whether a job that has the fastest device to itself is on time."""
        return self.opens + self.evaluations * self.least_s <= self.closes + _ROUNDING_S

    @property
    def latent_evaluations(self) -> int:
        """Of all its images."""
        return self.images * self.evaluations

    def overlap(self, begin: float, end: float) -> float:
        """Seconds of the window of evaluations within an interval."""
        return max(0.0, min(end, self.closes) - max(begin, self.opens))


def groups_of(devices: Iterable[Device]) -> list[Group]:
    """Devices by what they cost, which is all that tells them apart."""
    counts: Counter[tuple[tuple[tuple[str, KeyCosts], ...], int, int, int]] = Counter(
        (tuple(sorted(device.costs.items())), device.max_batch, device.encode_batch, device.decode_batch)
        for device in devices
    )
    return [
        Group(
            count,
            {
                key: Curves(padded(costs.encode, encode), padded(costs.step, batch), padded(costs.decode, decode))
                for key, costs in table
            },
        )
        for (table, batch, encode, decode), count in counts.items()
    ]


def windows_of(instance: Instance, groups: Sequence[Group]) -> list[Window]:
    """Of the jobs that have a deadline and can be on time at all; others count for nothing in any schedule."""
    dated = ((index, request) for index, request in enumerate(instance.requests) if not math.isinf(request.deadline))
    made = (_window(index, request, groups) for index, request in dated)
    return [window for window in made if window.possible]


def _window(index: int, request: Request, groups: Sequence[Group]) -> Window:
    able = [group.curves[request.key] for group in groups if request.key in group.curves]
    encode_s, decode_s = (min(map(_best, lanes)) for lanes in zip(*((c.encode, c.decode) for c in able), strict=True))
    return Window(
        index,
        request.key,
        request.images,
        request.evaluations,
        request.release,
        request.deadline,
        opens=request.release + min(curves.encode[1] for curves in able),
        closes=request.deadline - min(curves.decode[1] for curves in able),
        least_s=min(curves.step[1] for curves in able),
        beside_s=encode_s + request.images * decode_s,
    )


def _best(costs: list[float]) -> float:
    return min(costs[batch] / batch for batch in range(1, len(costs)))
