"""What the device costs: from a profile before a run, and from the worker's log of every batch after it.

1. A server of ours begins with the profile, whichever model it runs; the simulated model also costs what the profile says.
2. The recorded cost of a batch is the mean over the run; a step takes the device's idle time before it as well. Sizes that did not occur
   keep the profile's shape times what those that did turned out to be.
"""

import dataclasses
import math
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from collodion.process.profile import read_profiles, write_profiles
from simulation.instance import Device, KeyCosts, seconds
from simulation.truth import DECODE, ENCODE, STEP, STORE

SIMULATED = "simulated"
_FEW = 3  # batches of a size below which its mean says little


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch on a real device. `size` counts what its lane counts: latents of a step or decode, jobs of an encode."""

    lane: str
    key: str
    size: int
    seconds: float
    idle_s: float | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A device as it turned out to be; `noise` is what single steps deviate, as a share; `store_s` what storing a picture took."""

    device: Device
    noise: float
    store_s: float


def measure(model: str, flags: Sequence[str], output: Path) -> str:
    """Has `collodion profile` measure it, and returns FILE:NAME. Exits if that fails."""
    command = [sys.executable, "-m", "collodion.client.cli", "profile", model, f"--output={output}", *flags]
    if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit("load: the model could not be measured")
    return f"{output}:{next(iter(read_profiles(output)))}"


def server_profile(where: str, model: str, key: str, folder: Path) -> Path:
    """The profile of FILE:NAME as a file for the scheduler, whoever made it, for this model and size on any device."""
    path, _, name = where.rpartition(":")
    profile = read_profiles(Path(path))[name]
    rows = 1 if model == SIMULATED else profile.rows
    made = folder / "profile.json"
    write_profiles(made, [dataclasses.replace(profile, key=key, device_kind="", rows=rows)])
    return made


def simulated_settings(costs: KeyCosts) -> list[str]:
    """The worker's settings by which the simulated model costs this."""
    lanes = {"encode": costs.encode, "step": costs.step, "decode": costs.decode}
    pairs = {
        lane: ",".join(f"{batch}:{1000 * each:.3f}" for batch, each in enumerate(table, 1))
        for lane, table in lanes.items()
    }
    return [f"worker.simulated_{lane}_ms={text}" for lane, text in pairs.items()]


def batches_of(lines: Iterable[Mapping[str, object]]) -> list[Batch]:
    """The batches that a worker's log tells of, at level debug."""
    return [
        Batch(
            lane=str(line["lane"]),
            key=str(line["key"]),
            size=_int(line["evaluations"] if line["lane"] == STEP else line["batch"]),
            seconds=_float(line["seconds"]),
            idle_s=None if line["gap_s"] is None else _float(line["gap_s"]),
        )
        for line in lines
        if line.get("message") == "a batch"
    ]


def recorded(batches: Sequence[Batch], device: Device) -> Recorded:
    """The device as these batches found it."""
    lanes: dict[tuple[str, str], list[Batch]] = defaultdict(list)
    for batch in batches:
        lanes[batch.lane, batch.key].append(batch)
    costs = {
        key: KeyCosts(
            encode=_table(known.encode, lanes[ENCODE, key], device.encode_batch),
            step=_table(known.step, lanes[STEP, key], device.max_batch),
            decode=_table(known.decode, lanes[DECODE, key], device.decode_batch),
        )
        for key, known in device.costs.items()
    }
    steps = [batch for batch in batches if batch.lane == STEP]
    errors = [batch.seconds / seconds(costs[batch.key].step, batch.size) - 1.0 for batch in steps]
    stores = [batch.seconds for batch in batches if batch.lane == STORE]
    return Recorded(
        dataclasses.replace(device, costs=costs),
        math.sqrt(statistics.fmean(error**2 for error in errors)) if errors else 0.0,
        statistics.fmean(stores) if stores else 0.0,
    )


def _table(known: tuple[float, ...], batches: Sequence[Batch], most: int) -> tuple[float, ...]:
    sizes: dict[int, list[float]] = defaultdict(list)
    idle_s = statistics.fmean([batch.idle_s for batch in batches if batch.idle_s is not None] or [0.0])
    for batch in batches:
        sizes[batch.size].append(batch.seconds + idle_s)
    seen = [(each, seconds(known, size)) for size, all_of in sizes.items() for each in all_of]
    level = sum(each for each, _ in seen) / sum(expected for _, expected in seen) if seen else 1.0
    return tuple(
        statistics.fmean(sizes[size]) if len(sizes.get(size, ())) >= _FEW else level * seconds(known, size)
        for size in range(1, most + 1)
    )


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def _float(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
