"""A scheduling problem, whole: requests with their moments of release and deadlines, and devices with what batches cost them.

1. `key` is the batch key as the scheduler writes it, MODEL/WIDTHxHEIGHT.
2. A cost table holds seconds, index 0 for a batch of 1. A step's batch and a decode's batch count latents, an encode's jobs. Beyond
   its last entry a table goes on with the slope of its last two.
3. Alone, a request of n images runs as one batch of n (in waves where the device takes fewer): that is its standalone time.
4. The work of a request on a device is what it costs at the best batch size of each lane; a fleet's capacity is one such second a
   device and second. Load is offered work over capacity.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Request:
    """What one client asks for. `release` and `deadline` in seconds; a request without a deadline has `math.inf`.

    `evaluations` is what each of its `images` takes; `weight` is what it is worth if all of them are stored by the deadline.
    """

    release: float
    deadline: float
    key: str
    evaluations: int
    images: int = 1
    weight: float = 1.0
    tenant: str = "tenant-0"
    tier: str = "standard"

    @property
    def slo_s(self) -> float | None:
        """Seconds from release to deadline; None if there is no deadline."""
        return None if math.isinf(self.deadline) else self.deadline - self.release


@dataclass(frozen=True, slots=True)
class KeyCosts:
    """Seconds that batches of one key take, index 0 for a batch of 1; each with one entry at least."""

    encode: tuple[float, ...]
    step: tuple[float, ...]
    decode: tuple[float, ...]

    def scaled(self, factor: float) -> "KeyCosts":
        """Every cost times a factor."""
        return KeyCosts(
            *(tuple(seconds * factor for seconds in lane) for lane in (self.encode, self.step, self.decode))
        )


@dataclass(frozen=True, slots=True)
class Device:
    """One worker's device: its kind (what devices of one speed share), costs by key, and bounds of its batches.

    With `model_bytes` its models come and go: `on_disk` are not in its memory at the start, loading one takes `load_s` seconds.
    """

    name: str
    kind: str
    costs: Mapping[str, KeyCosts]
    max_batch: int
    encode_batch: int = 8
    decode_batch: int = 4
    max_resident: int = 256
    model_bytes: int = 0
    model_sizes: Mapping[str, int] = field(default_factory=dict)
    on_disk: frozenset[str] = frozenset()
    load_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Instance:
    """Requests by release, and the devices that are there for all of them from the beginning to the end."""

    requests: tuple[Request, ...]
    devices: tuple[Device, ...]


def seconds(table: tuple[float, ...], batch: int) -> float:
    """What a batch takes by a cost table."""
    if batch <= len(table):
        return table[batch - 1]
    slope = table[-1] - table[-2] if len(table) > 1 else table[-1]
    return table[-1] + max(0.0, slope) * (batch - len(table))


def best_seconds(table: tuple[float, ...], most: int) -> float:
    """What one member of a batch costs at the best batch size up to `most`."""
    return min(seconds(table, batch) / batch for batch in range(1, most + 1))


def work_s(key: str, evaluations: int, images: int, device: Device) -> float:
    """Device seconds of a request at the best batch size of each lane."""
    costs = device.costs[key]
    latent = evaluations * best_seconds(costs.step, device.max_batch) + best_seconds(costs.decode, device.decode_batch)
    return images * latent + best_seconds(costs.encode, device.encode_batch)


def standalone_s(key: str, evaluations: int, images: int, devices: Iterable[Device]) -> float:
    """Seconds of a request alone on the fastest of the devices."""
    return min(_alone_s(device.costs[key], evaluations, images, device) for device in devices if key in device.costs)


def load_of(instance: Instance, span_s: float) -> float:
    """Offered work over capacity, if the requests come within `span_s` seconds."""
    capacity = 0.0
    for device in instance.devices:
        total = sum(work_s(each.key, each.evaluations, each.images, device) for each in instance.requests)
        capacity += span_s / total  # the share of all requests that this device alone would do in the span
    return 1.0 / capacity


def biased(instance: Instance, factor: float) -> Instance:
    """The same problem on devices whose every cost is `factor` times as high."""
    devices = tuple(
        dataclasses.replace(device, costs={key: costs.scaled(factor) for key, costs in device.costs.items()})
        for device in instance.devices
    )
    return dataclasses.replace(instance, devices=devices)


def _alone_s(costs: KeyCosts, evaluations: int, images: int, device: Device) -> float:
    total = costs.encode[0]
    for wave in _parts(images, device.max_batch):
        total += evaluations * seconds(costs.step, wave)
        total += sum(seconds(costs.decode, part) for part in _parts(wave, device.decode_batch))
    return total


def _parts(total: int, most: int) -> list[int]:
    return [most] * (total // most) + ([total % most] if total % most else [])
