"""Saved profiles: what the stages of a model cost on a device, by batch size.

1. A file is JSON: `{"about": …, "unit": "ms", "profiles": {NAME: {"clip": […], "unet": […], "vae": […]}}}`. Entry 0 of a list is a batch of
   one image, entry 1 of two, and so on. `unet` is one evaluation. A file of these three alone is a profile; the rest is ours.
2. `measured` says which batch sizes were measured, for each stage; entries between them are interpolated. Without it all were.
3. `key` (MODEL/WIDTHxHEIGHT) and `device_kind` say to what a profile applies; `rows` how many rows of a model call an image of `unet`
   took (with guidance 2); `spread` how much single calls differ, as a share of their time; `store` what storing a picture takes.
4. What is wrong with a file is a ConfigError that names it.
"""

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collodion.process.config import ConfigError

_STAGES = {"clip": "encode", "unet": "step", "vae": "decode"}
_KEY = re.compile(r".+/[1-9]\d*x[1-9]\d*")
_ABOUT = "Milliseconds of each stage against batch size, entry 0 for a batch of one image. Made by `collodion profile`."
_LONGEST_MS = 3_600_000
_LONGEST_LIST = 4096


@dataclass(frozen=True)
class Profile:
    """One profile. `lanes` (encode, step, decode) holds seconds by the number of images, as far as they were measured.

    `versions` says with what it was measured. What is not known is empty; `rows` is then that of guided images.
    """

    name: str
    lanes: Mapping[str, Mapping[int, float]]
    key: str = ""
    device_kind: str = ""
    rows: int = 2
    store_s: float | None = None
    spread: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def is_key(text: str) -> bool:
    """Whether it is a batch key: MODEL/WIDTHxHEIGHT."""
    return _KEY.fullmatch(text) is not None


def read_profiles(path: Path) -> dict[str, Profile]:
    """The profiles in a file, by name. Raises ConfigError."""
    return {name: _profile(f"{path}: profile {name}", name, entry) for name, entry in _read(path)["profiles"].items()}


def write_profiles(path: Path, profiles: Iterable[Profile]) -> None:
    """Writes them into `path`; what else is in that file already stays.

    Raises:
        ConfigError: there is a file that is not one of profiles. OSError: it cannot be written.
    """
    said: dict[str, Any] = _read(path) if path.exists() else {"about": _ABOUT, "unit": "ms", "profiles": {}}
    said["profiles"] |= {profile.name: _entry(profile) for profile in profiles}
    lists_on_a_line = re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), json.dumps(said, indent=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(lists_on_a_line + "\n")
    draft.replace(path)


# ---------------------------------------------------------------------- reading


def _read(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(said, dict) or not isinstance(said.get("profiles"), dict) or not said["profiles"]:
        raise ConfigError(f"{path} is no file of profiles: it has no object `profiles` with one at least")
    if said.get("unit") != "ms":
        raise ConfigError(f"{path}: the unit has to be ms, and is {json.dumps(said.get('unit'))}")
    return said


def _profile(where: str, name: str, entry: Any) -> Profile:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is not an object")
    key, kind = _text(where, entry, "key"), _text(where, entry, "device_kind")
    if key and not is_key(key):
        raise ConfigError(f"{where}: key {key!r} is not MODEL/WIDTHxHEIGHT")
    rows = entry.get("rows", 2)
    if rows not in (1, 2):
        raise ConfigError(f"{where}: rows {rows!r} is neither 1 nor 2")
    lanes = {lane: _lane(where, entry, stage) for stage, lane in _STAGES.items() if stage in entry}
    if "step" not in lanes:
        raise ConfigError(f"{where} lacks the list `unet`")
    return Profile(
        name=name,
        lanes=lanes,
        key=key,
        device_kind=kind,
        rows=rows,
        store_s=_ms(f"{where}: store", entry["store"]) / 1000 if "store" in entry else None,
        spread={_STAGES[stage]: share for stage, share in _shares(where, entry).items()},
        versions={str(what): str(version) for what, version in _object(where, entry, "versions").items()},
    )


def _lane(where: str, entry: Mapping[str, Any], stage: str) -> dict[int, float]:
    costs = entry[stage]
    if not isinstance(costs, list) or not 0 < len(costs) <= _LONGEST_LIST:
        raise ConfigError(f"{where}: {stage} is not a list of 1 to {_LONGEST_LIST} numbers")
    every = {batch: _ms(f"{where}: {stage} at batch {batch}", ms) / 1000 for batch, ms in enumerate(costs, 1)}
    measured = _object(where, entry, "measured").get(stage, list(every))
    if (
        not isinstance(measured, list)
        or not measured
        or not all(isinstance(batch, int) and batch in every for batch in measured)
    ):
        raise ConfigError(f"{where}: measured {stage} does not name batches of its list")
    return {batch: every[batch] for batch in sorted(set(measured))}


def _ms(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LONGEST_MS:
        raise ConfigError(f"{where}: {json.dumps(value)} is not a number of milliseconds above 0 and up to an hour")
    return float(value)


def _shares(where: str, entry: Mapping[str, Any]) -> dict[str, float]:
    shares = _object(where, entry, "spread")
    for stage, share in shares.items():
        if stage not in _STAGES or isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ConfigError(f"{where}: spread {stage} = {json.dumps(share)} is not a stage's share from 0 to 1")
    return shares


def _object(where: str, entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = entry.get(name, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {name} is not an object")
    return value


def _text(where: str, entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name, "")
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {name} {json.dumps(value)} is not text")
    return value


# ---------------------------------------------------------------------- writing


def _entry(profile: Profile) -> dict[str, Any]:
    stages = {stage: profile.lanes[lane] for stage, lane in _STAGES.items() if profile.lanes.get(lane)}
    store = {} if profile.store_s is None else {"store": _rounded(profile.store_s)}
    return {
        **{stage: _filled(costs) for stage, costs in stages.items()},
        "measured": {stage: sorted(costs) for stage, costs in stages.items() if len(costs) < max(costs)},
        "key": profile.key,
        "device_kind": profile.device_kind,
        "rows": profile.rows,
        **store,
        "spread": {stage: round(profile.spread[lane], 4) for stage, lane in _STAGES.items() if lane in profile.spread},
        "versions": dict(profile.versions),
    }


def _filled(costs: Mapping[int, float]) -> list[float]:
    """Milliseconds from batch 1 to the largest measured; below the smallest its own."""
    sizes = sorted(costs)
    filled = [costs[sizes[0]]] * sizes[0]
    for low, high in itertools.pairwise(sizes):
        slope = (costs[high] - costs[low]) / (high - low)
        filled += [costs[low] + slope * more for more in range(1, high - low + 1)]
    return [_rounded(seconds) for seconds in filled]


def _rounded(seconds: float) -> float:
    return float(f"{seconds * 1000:.6g}")
