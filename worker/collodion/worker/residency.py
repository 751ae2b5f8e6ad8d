"""Which models this worker has in memory, which it is to have, and how the others stand.

1. The newest `ResidencyWish` says what is to be resident. Until the first one, everything stays as it is.
2. Three threads meet here. The link takes wishes and tells how all stands; the loader loads what `next` gives it; the device thread alone
   lets models in and out, by `turn` at a boundary, so that within a round the table stands.
3. A model that is not wished for leaves when no latent that is held is of it. The loader gives its memory back, which may take as long as a
   step, and loads the next one only then if both do not fit.
4. What failed to load is tried again when a later wish names it, or when its files have changed.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from collodion.wire.jobs import AdapterInfo, ModelInfo, ModelStatus, Residency
from collodion.wire.to_worker import ResidencyWish
from collodion.worker.latent import WorkerJob
from collodion.worker.pipeline import AnyPipeline
from collodion.worker.shelf import Contents, NotWished, ShelvedModel

_PROGRESS_S = 0.25  # between two states that tell of nothing but progress


@dataclass(frozen=True)
class Standing:
    """How everything stands; `version` rises with what is worth telling. `wished` is the number of the wish taken up from `scheduler`."""

    version: int = -1
    models: tuple[ModelInfo, ...] = ()
    statuses: tuple[ModelStatus, ...] = ()
    adapters: tuple[AdapterInfo, ...] = ()
    scheduler: str = ""
    wished: int = 0


class Turn(NamedTuple):
    """What changed at a boundary: the models that are resident now, and those that are so no more, to be given to `release`."""

    arrived: tuple[str, ...]
    left: tuple[tuple[str, AnyPipeline], ...]


class Residents:
    """All models of one worker.

    budget_bytes: what they may take of the device's memory, 0 for no bound. pinned: those that its settings keep. on_news is called
    when there is something to be told, on_due when there is something for `turn` to do; on any thread.
    """

    def __init__(
        self,
        budget_bytes: int = 0,
        pinned: Iterable[str] = (),
        on_news: Callable[[], None] = lambda: None,
        on_due: Callable[[], None] = lambda: None,
    ) -> None:
        self.budget_bytes = budget_bytes
        self._pinned = frozenset(pinned)
        self._on_news = on_news
        self._on_due = on_due
        self._changed = threading.Condition()
        self._closed = False
        self._contents = Contents()
        self._shelved: dict[str, ShelvedModel] = {}
        self._resident: dict[str, AnyPipeline] = {}
        self._arrivals: dict[str, AnyPipeline] = {}
        self._leaving: dict[str, int] = {}  # models that are out, and how much memory each has not given back
        self._released: list[tuple[str, AnyPipeline]] = []
        self._loading: tuple[str, float] | None = None
        self._load_s: dict[str, float] = {}
        self._bytes: dict[str, int] = {}  # counted once: a model has thousands of tensors
        self._outdated: set[str] = set()  # in memory as their files were before
        self._failed: dict[str, str] = {}
        self._wish: ResidencyWish | None = None
        self._told_progress = 0.0
        self.version = 0
        self.unsettled = False

    # ------------------------------------------------------------------ any thread

    def has(self, name: str) -> bool:
        """Whether it is resident."""
        return name in self._resident

    def knows(self, name: str) -> bool:
        """Whether it is resident or may come to be."""
        return name in self._resident or name in self._shelved

    def equip(self, job: WorkerJob) -> None:
        """Gives the job its model's pipeline, if that is resident. As one with `turn`: it never gets one that has left."""
        with self._changed:
            if (pipeline := self._resident.get(job.model)) is not None:
                job.take(pipeline)

    def is_current(self, job: WorkerJob) -> bool:
        """Whether what the job has for a pipeline is what is resident."""
        return job.pipeline is self._resident.get(job.model)

    def keep(self, name: str, pipeline: AnyPipeline, load_s: float) -> None:
        """A model that was loaded at the start, before there are other threads."""
        self._resident[name] = pipeline
        self._load_s[name], self._bytes[name] = load_s, pipeline.weight_bytes

    def shelve(self, contents: Contents) -> None:
        """What lies on the shelf now."""
        with self._changed:
            if contents == self._contents:
                return
            self._contents = contents
            before, self._shelved = self._shelved, {model.name: model for model in contents.models}
            for name, model in self._shelved.items():
                if name in before and before[name].edition != model.edition:
                    self._failed.pop(name, None)
                    self._outdated.add(name)
            self._forget_sizes()
            self._note()
        self._on_news()

    def standing(self) -> Standing:
        """How everything stands."""
        with self._changed:
            names = {**dict.fromkeys(self._shelved), **dict.fromkeys(self._resident)}
            wish = self._wish
            return Standing(
                self.version,
                tuple(info for name in names if (info := self._info(name)) is not None),
                tuple(self._status(name) for name in names),
                self._contents.adapters,
                wish.scheduler if wish is not None else "",
                wish.number if wish is not None else 0,
            )

    def note_optimizations(self, name: str) -> None:
        """What makes the model fast has changed: it is told, if it is resident."""
        with self._changed:
            if name not in self._resident:
                return
            self.version += 1
        self._on_news()

    def close(self) -> None:
        """Nothing is loaded any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # ------------------------------------------------------------------ the link

    def take(self, wish: ResidencyWish) -> None:
        """A wish from the scheduler that is served now. An older one, or the same again, changes nothing."""
        with self._changed:
            if self._wish is not None and self._wish.scheduler == wish.scheduler and wish.number <= self._wish.number:
                return
            self._wish = wish
            for name in wish.models:
                self._failed.pop(name, None)
            self._note()
        self._on_news()
        self._on_due()

    # ------------------------------------------------------------------ the loader

    def next(self) -> str | None:
        """Waits for a model that is to be loaded now; None when there will be none any more. Empty: models are to be closed first."""
        with self._changed:
            while not self._closed:
                if self._released:
                    return ""
                name = self._wanted()
                if name is not None and self._has_room(name):
                    self._loading = name, 0.0
                    self._note()
                    break
                self._changed.wait()
            else:
                return None
        self._on_news()
        return name

    def close_released(self) -> int:
        """Closes those that have left; how many."""
        closed = 0
        while self._released:
            name, pipeline = self._released.pop()
            try:
                pipeline.close()
            finally:
                with self._changed:
                    self._leaving.pop(name, None)
            closed += 1
        return closed

    def progressed(self, name: str, done: float) -> None:
        """So much of it is loaded, 0 to 1. Raises NotWished."""
        with self._changed:
            if self._closed or not self._is_wished(name):
                raise NotWished(name)
            self._loading = name, min(1.0, max(done, 0.0))
            now = time.monotonic()
            if now - self._told_progress < _PROGRESS_S:
                return
            self._told_progress = now
            self.version += 1
        self._on_news()

    def loaded(self, name: str, pipeline: AnyPipeline, load_s: float) -> None:
        """It is loaded; the device thread takes it in."""
        weight_bytes = pipeline.weight_bytes
        with self._changed:
            self._load_s[name], self._bytes[name] = load_s, weight_bytes
            self._arrivals[name] = pipeline
            self._loading = None
            self._note()
        self._on_due()

    def failed(self, name: str, reason: str) -> None:
        """It could not be loaded; an empty reason: nobody wanted it any more."""
        with self._changed:
            self._loading = None
            if reason:
                self._failed[name] = reason
            self._note()
        self._on_news()

    # ------------------------------------------------------------------ the device thread

    def turn(self, needed: Collection[str]) -> Turn:
        """Lets in what was loaded, and out what is neither wished for nor among the needed: models of which latents are held."""
        with self._changed:
            arrived = {name: one for name, one in self._arrivals.items() if self._is_wished(name)}
            leaving = [name for name in self._resident if self._may_leave(name) and name not in needed]
            left = [(name, one) for name, one in self._arrivals.items() if name not in arrived]
            left += [(name, self._resident.pop(name)) for name in leaving]
            self._leaving.update((name, self._bytes[name]) for name, _ in left)
            self._resident.update(arrived)
            self._arrivals = {}
            self._forget_sizes()
            if arrived or left:
                self._note()
        if arrived or left:
            self._on_news()
        return Turn(tuple(arrived), tuple(left))

    def tidy(self) -> bool:
        """One of them does something that makes its later batches faster; False if none had anything to do."""
        return any(pipeline.tidy() for pipeline in self._resident.values())

    def release(self, left: Iterable[tuple[str, AnyPipeline]]) -> None:
        """Nothing of these is under way any more: the loader may close them."""
        with self._changed:
            self._released += left
            self._changed.notify_all()

    # ------------------------------------------------------------------ parts; the lock is held

    def _note(self) -> None:
        self.version += 1
        self.unsettled = bool(self._arrivals) or any(map(self._may_leave, self._resident))
        self._changed.notify_all()

    def _forget_sizes(self) -> None:
        """What a model took says nothing of the files that lie there now; while it is in memory it takes it all the same."""
        gone = self._outdated - self._resident.keys() - self._arrivals.keys()
        for name in gone:
            self._bytes.pop(name, None)
        self._outdated -= gone

    def _is_wished(self, name: str) -> bool:
        return self._wish is None or name in self._wish.models

    def _may_leave(self, name: str) -> bool:
        return not self._is_wished(name)

    def _wanted(self) -> str | None:
        """The first that is wished for, and can be loaded."""
        for name in self._wish.models if self._wish is not None else ():
            there = name in self._resident or name in self._arrivals or name in self._failed
            if not there and name in self._shelved and not self._shelved[name].fault:
                return name
        return None

    def _has_room(self, name: str) -> bool:
        if not self.budget_bytes or not (self._leaving or any(map(self._may_leave, self._resident))):
            return True
        taken = sum(self._bytes[one] for one in (*self._resident, *self._arrivals)) + sum(self._leaving.values())
        return taken + self._shelved[name].size_bytes <= self.budget_bytes

    def _info(self, name: str) -> ModelInfo | None:
        if name in self._resident:
            return self._resident[name].info
        return self._shelved[name].info

    def _status(self, name: str) -> ModelStatus:
        shelved, pipeline = self._shelved.get(name), self._resident.get(name)
        residency, progress, reason = Residency.ON_DISK, 0.0, ""
        if pipeline is not None:
            residency = Residency.RESIDENT
        elif name in self._arrivals:
            residency, progress = Residency.LOADING, 1.0
        elif self._loading is not None and self._loading[0] == name:
            residency, progress = Residency.LOADING, self._loading[1]
        elif reason := self._failed.get(name) or (shelved.fault if shelved is not None else ""):
            residency = Residency.FAILED
        return ModelStatus(
            name=name,
            residency=residency,
            size_bytes=self._bytes.get(name) or (shelved.size_bytes if shelved is not None else 0),
            progress=progress,
            reason=reason,
            pinned=name in self._pinned,
            load_s=self._load_s.get(name),
            optimizations=pipeline.optimizations if pipeline is not None else (),
        )
