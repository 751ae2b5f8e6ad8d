"""The models of a virtual worker: those in its memory, and how a wish changes them. As `collodion.worker.residency` has it.

They are loaded one after the other, beside the steps; they come in and leave at a boundary, and none leaves under a latent that is held.
"""

from collections.abc import Callable, Collection

from collodion.wire.jobs import ModelInfo, ModelStatus, Residency
from collodion.wire.to_worker import ResidencyWish
from simulation.agenda import Agenda
from simulation.instance import Device


class VirtualShelf:
    """All models of one worker. `on_due` hears that there is something for `turn`, `on_news` that there is something to be told."""

    def __init__(
        self,
        device: Device,
        models: tuple[ModelInfo, ...],
        agenda: Agenda,
        on_due: Callable[[], None],
        on_news: Callable[[], None],
    ) -> None:
        self._device = device
        self._agenda = agenda
        self._on_due = on_due
        self._on_news = on_news
        names = [model.name for model in models]
        self.resident = {name for name in names if name not in device.on_disk}
        self._names = names
        self._arrived: set[str] = set()
        self._loading = ""
        self._load = 0
        self.wish: ResidencyWish | None = None

    def lacks(self, name: str) -> bool:
        """Whether the model is one that is not in memory."""
        return name in self._names and name not in self.resident

    def take(self, wish: ResidencyWish) -> None:
        """A wish arrives."""
        if self.wish is not None and self.wish.scheduler == wish.scheduler and wish.number <= self.wish.number:
            return
        self.wish = wish
        if self._loading and self._loading not in wish.models:
            self._loading = ""
            self._load += 1
        self._on_news()
        self._on_due()

    def turn(self, needed: Collection[str]) -> None:
        """At a boundary: lets in what was loaded, and out what is neither wished for nor needed."""
        if self.wish is None:
            return
        before = set(self.resident)
        self.resident |= self._arrived & set(self.wish.models)
        self._arrived.clear()
        self.resident -= {name for name in self.resident if name not in self.wish.models and name not in needed}
        self._load_next()
        if self.resident != before:
            self._on_news()

    def statuses(self) -> tuple[ModelStatus, ...]:
        """Where each model is; nothing where the device says no sizes: then all are in its memory."""
        if not self._device.model_bytes:
            return ()
        return tuple(
            ModelStatus(name, self._where(name), self._size(name), load_s=self._device.load_s) for name in self._names
        )

    def _load_next(self) -> None:
        assert self.wish is not None
        waiting = [name for name in self.wish.models if name not in self.resident and name not in self._arrived]
        taken = sum(map(self._size, self.resident))
        if not waiting or self._loading or taken + self._size(waiting[0]) > self._device.model_bytes:
            return
        self._loading = waiting[0]
        self._load += 1
        self._agenda.at(self._agenda.now + self._device.load_s, self._loaded, (self._load, waiting[0]))
        self._on_news()

    def _loaded(self, what: tuple[int, str]) -> None:
        load, name = what
        if load == self._load and self._loading == name:
            self._loading = ""
            self._arrived.add(name)
            self._on_due()

    def _where(self, name: str) -> Residency:
        if name in self.resident:
            return Residency.RESIDENT
        return Residency.LOADING if name == self._loading or name in self._arrived else Residency.ON_DISK

    def _size(self, name: str) -> int:
        return self._device.model_sizes.get(name, 0)
