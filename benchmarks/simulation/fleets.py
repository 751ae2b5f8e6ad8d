"""Fleets: the devices of a simulation, from profiles."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from simulation.instance import Device, KeyCosts
from simulation.models import parts_of
from simulation.profiles import Profile, ProfileError, costs_at


@dataclass(frozen=True, slots=True)
class Bounds:
    """Batches at most, and latents held at most; `batch` None is as many as the profile's steps were measured for."""

    batch: int | None = None
    encode: int = 8
    decode: int = 4
    resident: int = 256


def make_fleet(
    profiles: Sequence[Profile], workers: Sequence[int], keys: Iterable[str], bounds: Bounds
) -> tuple[Device, ...]:
    """`workers` devices of each profile; of one number so many in all, each profile in turn. Raises ProfileError."""
    if len(workers) not in (1, len(profiles)):
        raise ProfileError(f"{len(workers)} numbers of workers for {len(profiles)} profiles")
    sizes = {key: parts_of(key)[1] for key in keys}
    if len(workers) == 1:
        chosen = [profiles[index % len(profiles)] for index in range(workers[0])]
    else:
        chosen = [profile for profile, count in zip(profiles, workers, strict=True) for _ in range(count)]
    return tuple(_device(index, profile, sizes, bounds) for index, profile in enumerate(chosen))


def _device(index: int, profile: Profile, sizes: dict[str, int], bounds: Bounds) -> Device:
    costs: dict[str, KeyCosts] = {key: costs_at(profile.sizes, size) for key, size in sizes.items()}
    most = bounds.batch or min(len(each.step) for each in costs.values())
    return Device(f"{profile.kind}-{index}", profile.kind, costs, most, bounds.encode, bounds.decode, bounds.resident)
