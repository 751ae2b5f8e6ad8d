"""Simulated models that have to be loaded before they draw, to rehearse how models come and go. Imports no torch.

Loading one takes a time that is slept, and a size that is only said. It may be told to go wrong: `raise` and `memory` break off halfway,
with an error and for want of memory; `crash` ends the whole process there.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence

from collodion.process.config import ConfigError
from collodion.wire.jobs import AdapterInfo, AdapterKind
from collodion.worker.config import WorkerConfig
from collodion.worker.families.simulated import Simulated
from collodion.worker.pipeline import AnyPipeline
from collodion.worker.shelf import Contents, Progress, ShelvedModel

_TROUBLES = ("raise", "memory", "crash")
_SLICES = 20  # of a loading, after each of which its progress is told


class SimulatedShelf:
    """These models, as the settings say what they cost. Raises ConfigError."""

    def __init__(self, names: Iterable[str], config: WorkerConfig) -> None:
        self._config = config
        self._names = tuple(names)
        loads = _by_name("simulated_load_ms", config.simulated_load_ms)
        self._troubles = {name: word for name, word in loads.items() if word in _TROUBLES}
        costs = {name: word for name, word in loads.items() if word not in _TROUBLES}
        self._load_s = {name: ms / 1000 for name, ms in _numbers("simulated_load_ms", costs).items()}
        self._adapters = tuple(_adapter(word) for word in config.simulated_adapters)
        self._mib = _numbers("simulated_model_mib", _by_name("simulated_model_mib", config.simulated_model_mib))

    def look(self) -> Contents:
        """See Shelf."""
        made = (self._made(name) for name in self._names)
        models = tuple(ShelvedModel(model.info.name, model.info, model.weight_bytes) for model in made)
        return Contents(models, self._adapters)

    def load(self, name: str, progress: Progress) -> AnyPipeline:
        """See Shelf."""
        load_s = _of(self._load_s, name)
        for part in range(_SLICES):
            if part == _SLICES // 2:
                self._rehearse(name)
            progress(part / _SLICES)
            time.sleep(load_s / _SLICES)
        return self._made(name)

    def _made(self, name: str) -> Simulated:
        return Simulated(name, self._config, int(_of(self._mib, name) * (1 << 20)))

    def _rehearse(self, name: str) -> None:
        match self._troubles.get(name):
            case "raise":
                raise RuntimeError(f"the model {name} was told to fail")
            case "memory":
                raise MemoryError
            case "crash":
                os._exit(3)


def _adapter(word: str) -> AdapterInfo:
    name, _, kind = word.partition(":")
    try:
        return AdapterInfo(name, AdapterKind(kind or AdapterKind.LOW_RANK))
    except ValueError as error:
        raise ConfigError(f"simulated_adapters: {word!r} is none of NAME, NAME:whole, NAME:embedding") from error


def _by_name(setting: str, words: Sequence[str]) -> dict[str, str]:
    """FIGURE for all, NAME:FIGURE for one."""
    parted = [word.rpartition(":") for word in words]
    found = {name: figure for name, _, figure in parted}
    if len(found) != len(words):
        raise ConfigError(f"{setting}: {','.join(words)} says something twice")
    return found


def _numbers(setting: str, words: Mapping[str, str]) -> dict[str, float]:
    try:
        numbers = {name: float(word) for name, word in words.items()}
    except ValueError as error:
        raise ConfigError(f"{setting}: {error}; it has to be a figure for all, or NAME:FIGURE pairs") from error
    if not all(0 <= number < 1e9 for number in numbers.values()):
        raise ConfigError(f"{setting}: has to be 0 or more")
    return numbers


def _of(numbers: Mapping[str, float], name: str) -> float:
    return numbers.get(name, numbers.get("", 0))
