"""Saved profiles for the cost model, as the setting `profiles` names them. Read once, at the start.

1. FILE takes every profile in it that says for which batch key it is.
2. FILE:NAME=MODEL/WIDTHxHEIGHT takes one, for this key; with @KIND behind, for this kind of device only. So files that know nothing of our
   models serve too.
3. A profile that names no kind of device holds for every kind that has no profile of its own.
4. A profile that was measured with guidance counts images of two rows each; between them a step's cost is interpolated.
"""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from collodion.process.config import ConfigError
from collodion.process.profile import Profile, is_key, read_profiles
from collodion.scheduler.cost_model import LANES, STEP, STORE, CostModel

_NAMED = re.compile(r"(?P<file>.+?):(?P<name>[^:=]+)=(?P<key>[^=@]+)(@(?P<kind>.+))?")


def prime(model: CostModel, settings: Iterable[str]) -> None:
    """Loads the profiles into the model. Raises ConfigError."""
    for setting in settings:
        for profile in _profiles(setting):
            rows = profile.rows
            lanes = {
                lane: {size * (rows if lane == STEP else 1): seconds for size, seconds in costs.items()}
                for lane, costs in profile.lanes.items()
                if lane in LANES
            }
            if profile.store_s is not None:
                lanes[STORE] = {1: profile.store_s}
            model.load(profile.device_kind, profile.key, lanes, profile.spread.get(STEP, 0.0))


def _profiles(setting: str) -> list[Profile]:
    named = _NAMED.fullmatch(setting)
    if named is None:
        return _with_keys(Path(setting))
    path, key, kind = Path(named["file"]), named["key"], named["kind"]
    if not is_key(key):
        raise ConfigError(f"profiles: {key!r} in {setting!r} is not MODEL/WIDTHxHEIGHT")
    profiles = read_profiles(path)
    if named["name"] not in profiles:
        raise ConfigError(f"profiles: {path} has no profile {named['name']!r}, but {', '.join(profiles)}")
    profile = profiles[named["name"]]
    return [dataclasses.replace(profile, key=key, device_kind=kind or profile.device_kind)]


def _with_keys(path: Path) -> list[Profile]:
    every = read_profiles(path)
    profiles = [profile for profile in every.values() if profile.key]
    if not profiles:
        raise ConfigError(
            f"profiles: none in {path} says for which model and size it is; write {path}:{next(iter(every))}=MODEL/WIDTHxHEIGHT"
        )
    return profiles
