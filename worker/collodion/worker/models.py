"""From the settings to shelves of models, and to those that are loaded at the start.

`shapes` is the embedded model, `simulated` needs no torch, NAME=/path is a diffusers folder, NAME=simulated and NAME=shapes are
these under another name. A family is imported only if a model needs it, so that a worker with simulated models alone starts in no time
and without torch.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from collodion.process.config import ConfigError
from collodion.worker.config import WorkerConfig
from collodion.worker.optimize.observer import ObserverFor, unobserved
from collodion.worker.optimize.wishes import check
from collodion.worker.pipeline import AnyPipeline
from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.residency import Residents
from collodion.worker.shelf import Shelf, Shelves

EMBEDDED = Path(__file__).parent / "shapes"
_SIMULATED = "simulated"


@dataclass(frozen=True)
class Library:
    """All models of a worker. device: in words. pinned: those that are loaded at the start, and kept. budget_bytes: see Residents."""

    device: str
    shelf: Shelf
    pinned: tuple[str, ...]
    budget_bytes: int


def open_library(config: WorkerConfig, observer_for: ObserverFor = unobserved) -> Library:
    """observer_for: whom a model that is loaded tells what its fast engine did.

    Raises ConfigError: a model is named twice, or is none of what we know; none is named; the device is not there; `optimize` cannot be
    read, or names a model that is not there.
    """
    pinned, others = _sources(config.models), _sources(config.on_demand)
    sources = {**pinned, **others}
    if len(sources) != len(config.models) + len(config.on_demand):
        named = ",".join((*config.models, *config.on_demand))
        raise ConfigError(f"models and on_demand: {named} must name each model, and each once")
    if not sources and config.models_dir is None:
        raise ConfigError("models: at least one has to be named, here or in on_demand, or to lie in models_dir")
    check(config.optimize, sources if config.models_dir is None else None)
    simulated = [name for name, path in sources.items() if path is None]
    folders = {name: path for name, path in sources.items() if path is not None}
    shelves: list[Shelf] = []
    if simulated:
        from collodion.worker.families.simulated_shelf import SimulatedShelf

        shelves.append(SimulatedShelf(simulated, config))
    if not folders and config.models_dir is None:
        budget_bytes = (config.model_mib or 0) << 20
        return Library(_SIMULATED, Shelves(shelves), tuple(pinned), budget_bytes)
    from collodion.worker.families.device import choose_device
    from collodion.worker.families.disk_shelf import DiskShelf
    from collodion.worker.families.memory import room_for_models

    device = choose_device(config)
    shelves.append(DiskShelf(folders, config, device, observer_for))
    return Library(str(device.place), Shelves(shelves), tuple(pinned), room_for_models(config, device))


def load_models(config: WorkerConfig) -> tuple[str, Mapping[str, AnyPipeline]]:
    """The device, in words, and the models that are loaded at the start, by name. Raises ConfigError."""
    library = open_library(config)
    library.shelf.look()
    return library.device, {name: _loaded(library, name) for name in library.pinned}


def keep_pinned(library: Library, models: Residents) -> None:
    """Looks through the shelf, and loads what is to be there from the start. Raises ConfigError."""
    models.shelve(library.shelf.look())
    for name in library.pinned:
        began = time.perf_counter()
        models.keep(name, _loaded(library, name), time.perf_counter() - began)


def _loaded(library: Library, name: str) -> AnyPipeline:
    try:
        return library.shelf.load(name, _ignore)
    except ModelUnusable as error:
        raise ConfigError(f"model {name!r}: {error.reason}") from error
    except MemoryError as error:
        raise ConfigError(f"model {name!r} does not fit the device's memory") from error


def _ignore(_: float) -> None:
    """Progress that nobody waits for."""


def _sources(words: Iterable[str]) -> dict[str, Path | None]:
    """Folders by name, None for a simulated model; of two with one name the last."""
    return dict(map(_source, words))


def _source(word: str) -> tuple[str, Path | None]:
    name, equals, path = word.strip().partition("=")
    if not equals:
        path = name
    if name and path == _SIMULATED:
        return name, None
    if name and path == "shapes":
        return name, EMBEDDED
    if name and equals and path:
        return name, Path(path).expanduser()
    raise ConfigError(f"models: {word!r} is neither shapes, nor simulated, nor NAME=/path/to/folder")
