"""Profiles of devices: the latency of each stage against batch size, read from a file of the format of `sd15-stage-latency.json`.

1. A profile is named KIND-MODEL-SIZE, the size in pixels (h100-sd15-512). Its stages `clip`, `unet` and `vae` become encode, step and
   decode; milliseconds become seconds. (The safety checker is not run.)
2. FILE:NAME takes one profile. FILE:PREFIX- takes every size that the file has under that prefix.
3. A size without a profile is derived from the nearest one that there is: the floor, which launching kernels costs whatever their size,
   stays; what is above it grows with the number of pixels to the power of 1.1, as attention's share grows faster than the rest. The
   floor of a stage is what a batch of 1 costs beyond one more image: cost(1) - (cost(2) - cost(1)), never below 0.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from simulation.instance import KeyCosts

_GROWTH = 1.1


class ProfileError(ValueError):
    """There is no such profile, or it is not one."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a model costs on a kind of device, by size of picture in pixels."""

    kind: str
    model: str
    sizes: Mapping[int, KeyCosts]


def read_profile(where: str) -> Profile:
    """The profile of FILE:NAME or FILE:PREFIX-. Raises ProfileError."""
    path, _, name = where.rpartition(":")
    try:
        profiles: Mapping[str, Mapping[str, list[float]]] = json.loads(Path(path).read_text())["profiles"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProfileError(f"{path or where}: no file of profiles ({error})") from error
    chosen = [each for each in profiles if each == name or (name.endswith("-") and each.startswith(name))]
    if not chosen:
        raise ProfileError(f"{path} has no profile {name}, but {', '.join(profiles)}")
    kind, _, model = chosen[0].rpartition("-")[0].rpartition("-")
    return Profile(kind or model, model, {_size(each): _costs(profiles[each]) for each in chosen})


def costs_at(sizes: Mapping[int, KeyCosts], size: int) -> KeyCosts:
    """The costs of square pictures of `size` pixels: measured if they are, else derived (rule 3)."""
    if size in sizes:
        return sizes[size]
    nearest = min(sizes, key=lambda known: abs(known - size))
    growth = (size / nearest) ** (2 * _GROWTH)
    measured = sizes[nearest]
    return KeyCosts(measured.encode, _grown(measured.step, growth), _grown(measured.decode, growth))


def _grown(table: tuple[float, ...], growth: float) -> tuple[float, ...]:
    floor = max(0.0, 2 * table[0] - table[1]) if len(table) > 1 else 0.0
    return tuple(floor + growth * (each - floor) for each in table)


def _size(name: str) -> int:
    size = name.rpartition("-")[2]
    if not size.isdigit():
        raise ProfileError(f"profile {name} does not end in its size in pixels")
    return int(size)


def _costs(stages: Mapping[str, list[float]]) -> KeyCosts:
    try:
        lanes = [tuple(ms / 1000 for ms in stages[stage]) for stage in ("clip", "unet", "vae")]
    except (KeyError, TypeError) as error:
        raise ProfileError(f"a profile lacks stage {error}") from error
    if not all(lanes):
        raise ProfileError("a stage of a profile is empty")
    return KeyCosts(*lanes)
