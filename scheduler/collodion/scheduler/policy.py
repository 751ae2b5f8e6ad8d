"""Policies: which latents a worker is to run next.

1. A policy sees the worker with what it holds, the latents that wait, the cost table and the time, and changes none of them.
   What it chooses from the backlog is placed on the worker, and stays there.
2. A choice has one batch key and at most `worker.cap` latents, and takes at most min(worker.room, share) from the backlog.
3. It is asked again after every change that concerns the worker, and at `wake`.
"""

import itertools
from dataclasses import dataclass
from typing import Protocol

from collodion.scheduler.backlog import Backlog
from collodion.scheduler.cost import CostTable
from collodion.scheduler.fleet import Worker
from collodion.scheduler.job import Latent, Rank
from collodion.wire.jobs import Stage


@dataclass(frozen=True, slots=True)
class Choice:
    """The step batch, most urgent first; `wake` (Unix seconds) is when time alone may change it."""

    running: tuple[Latent, ...] = ()
    wake: float | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """What all policies may look at besides the worker; `now` is Unix seconds."""

    backlog: Backlog
    costs: CostTable
    now: float


class Policy(Protocol):
    """One rule of choosing."""

    def rank(self, latent: Latent) -> Rank:
        """Its place among latents that wait or are held, least first; asked when it begins to wait, and may not change then."""

    def concerns(self, worker: Worker, latent: Latent) -> bool:
        """Whether this waiting latent may change the worker's choice. Asked of every worker at every arrival: O(1)."""

    def choose(self, worker: Worker, situation: Situation, share: int) -> Choice:
        """The worker's step batch; `share` is what it may take of the backlog without robbing its peers."""


class Fifo:
    """Step-level, first come first served: the batch key of the oldest latent, and all of that key by age."""

    def rank(self, latent: Latent) -> Rank:
        """Its age."""
        return 0.0, latent.id.job, latent.id.image

    def concerns(self, worker: Worker, latent: Latent) -> bool:
        """If it may join the batch, or is older than all of it."""
        if worker.cap < 1 or worker.room < 1:
            return False
        if not worker.running or latent.rank < worker.running[0].rank:
            return True
        return len(worker.running) < worker.cap and worker.running[0].key == latent.key

    def choose(self, worker: Worker, situation: Situation, share: int) -> Choice:
        """See the class."""
        held = worker.runnable()
        takes = min(worker.room, share, worker.cap)
        waiting = situation.backlog.head(worker.model_names) if takes > 0 else None
        heads = [*held[:1], *([waiting] if waiting else [])]
        if not heads:
            return Choice()
        oldest = min(heads, key=_rank)
        if oldest.suspect and _decodes(worker):
            return Choice()  # should it kill the worker, it is to be plain that it was this one
        mine = _of_key(held, oldest.key)
        newcomers = situation.backlog.first(oldest.model, oldest.key, min(takes, 1))
        if newcomers:
            # Only those that will be chosen are taken out: with a full batch that is none, whatever waits.
            ahead = sum(latent.rank < newcomers[0].rank for latent in mine)
            newcomers = situation.backlog.first(oldest.model, oldest.key, min(takes, worker.cap - ahead))
        return Choice(tuple(sorted([*mine, *newcomers], key=_rank)[: worker.cap]))


class Static:
    """Whole-request batches: what most servers do, and the baseline to be measured against.

    A batch of waiting jobs of one key starts on an idle worker when `size` latents wait or the oldest waited `timeout_s`. Then
    it is closed: nobody joins until all its latents are done. A job goes into a batch with all its images, or in parts of the
    worker's `cap` if it has more than that.
    """

    def __init__(self, size: int, timeout_s: float) -> None:
        self._size = size
        self._timeout_s = timeout_s

    def rank(self, latent: Latent) -> Rank:
        """Its age."""
        return 0.0, latent.id.job, latent.id.image

    def concerns(self, worker: Worker, latent: Latent) -> bool:  # noqa: ARG002 - the protocol's
        """If the worker is idle."""
        return not worker.running and worker.cap > 0 and worker.room > 0

    def choose(self, worker: Worker, situation: Situation, share: int) -> Choice:  # noqa: ARG002 - a request is whole
        """See the class; a whole request is not divided by `share`."""
        held = worker.runnable()
        if held:
            return Choice(tuple(_of_key(held, held[0].key)[: worker.cap]))
        # Latents of jobs that were set aside do not keep a batch closed: they may never come back.
        if _decodes(worker):
            return Choice()
        return self._start(worker, situation)

    def _start(self, worker: Worker, situation: Situation) -> Choice:
        ready: Latent | None = None
        wake: float | None = None
        full = min(self._size, worker.cap)
        for model in worker.model_names:
            for _, count, oldest in situation.backlog.keys(model):
                due = oldest.job.created + self._timeout_s
                if count < full and situation.now < due:
                    wake = due if wake is None else min(wake, due)
                elif ready is None or oldest.rank < ready.rank:
                    ready = oldest
        return Choice(self._requests(worker, ready, situation.backlog), wake) if ready else Choice(wake=wake)

    def _requests(self, worker: Worker, oldest: Latent, backlog: Backlog) -> tuple[Latent, ...]:
        """Whole jobs of one key, by age, as many as fit the batch; of the first as much as fits the worker."""
        most = min(worker.cap, worker.room)
        fit = min(self._size, most)
        waiting = backlog.first(oldest.model, oldest.key, most + 1)
        batch: list[Latent] = []
        for _, group in itertools.groupby(waiting, key=lambda latent: latent.id.job):
            images = list(group)
            if batch and len(batch) + len(images) > fit:
                break
            batch += images[:most]
        return tuple(batch)


def _rank(latent: Latent) -> Rank:
    return latent.rank


def _decodes(worker: Worker) -> bool:
    return any(latent.stage is Stage.DECODING for latent in worker.held.values())


def _of_key(latents: list[Latent], key: str) -> list[Latent]:
    return [latent for latent in latents if latent.key == key]
