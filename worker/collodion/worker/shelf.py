"""What a worker could load: the seam between `residency`, which says what is loaded when, and those who know how.

A shelf is looked at and loaded from on threads of their own, beside the device's; both may take long.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from collodion.wire.jobs import AdapterInfo, ModelInfo
from collodion.worker.pipeline import AnyPipeline

Progress = Callable[[float], None]
"""Told how much of a model is loaded, 0 to 1, as often as is convenient. It raises NotWished when nobody wants the model any more."""


class NotWished(Exception):
    """The loading is to be broken off. Whoever loads lets it pass, and leaves nothing behind."""


@dataclass(frozen=True)
class ShelvedModel:
    """A model that lies ready to be loaded.

    info: as clients are told, None while it is not known. size_bytes: what it will take of the device's memory, as well as its files
    tell. edition: changes when its files do. fault: why it cannot be used, a sentence; empty for one that can.
    """

    name: str
    info: ModelInfo | None
    size_bytes: int = 0
    edition: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Contents:
    """All that lies on a shelf; each name once."""

    models: tuple[ShelvedModel, ...] = ()
    adapters: tuple[AdapterInfo, ...] = ()


class Shelf(Protocol):
    """Models by name."""

    def look(self) -> Contents:
        """What lies there now."""

    def load(self, name: str, progress: Progress) -> AnyPipeline:
        """A model of the last look, ready for the device thread. Whatever it raises is why it failed; MemoryError: it does not fit."""


class Shelves:
    """Several shelves as one; of two models or adapters of one name the first counts."""

    def __init__(self, shelves: Sequence[Shelf]) -> None:
        self._shelves = tuple(shelves)
        self._of: dict[str, Shelf] = {}

    def look(self) -> Contents:
        """See Shelf."""
        models: dict[str, ShelvedModel] = {}
        adapters: dict[str, AdapterInfo] = {}
        of: dict[str, Shelf] = {}
        for shelf in self._shelves:
            contents = shelf.look()
            for model in contents.models:
                models.setdefault(model.name, model)
                of.setdefault(model.name, shelf)
            adapters = {adapter.name: adapter for adapter in contents.adapters} | adapters
        self._of = of
        return Contents(tuple(models.values()), tuple(adapters.values()))

    def load(self, name: str, progress: Progress) -> AnyPipeline:
        """See Shelf."""
        return self._of[name].load(name, progress)
