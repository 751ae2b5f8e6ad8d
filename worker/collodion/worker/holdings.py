"""What this worker holds, brought in line with the scheduler's newest wish.

Device thread only. What is wished for and not held is taken up, if its job's order is known; what is held and not wished for is
dropped; the rest changes places. Nothing is asked back: a job without an order is `missing`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from collodion.wire.jobs import LatentId, Stage
from collodion.wire.to_worker import JobOrder, Membership
from collodion.worker.latent import Latent, WorkerJob


@dataclass(frozen=True)
class Held:
    """The outcome of one membership, published whole: who reads it never sees half of a change."""

    scheduler: str = ""
    membership: int = 0
    latents: tuple[Latent, ...] = ()
    missing: tuple[str, ...] = ()

    def is_before(self, wish: Membership) -> bool:
        """Whether `wish` was not applied yet, nor one after it."""
        return wish.scheduler != self.scheduler or wish.number > self.membership


class Holdings:
    """Jobs and latents by name; `line` is who is to be brought forward, in order of urgency, ended ones among them until they
    are dropped.

    job_of: makes the job of an order, whose plan may follow later; returns at once.
    """

    def __init__(self, job_of: Callable[[JobOrder], WorkerJob]) -> None:
        self._job_of = job_of
        self._jobs: dict[str, WorkerJob] = {}
        self._latents: dict[LatentId, Latent] = {}
        self.line: list[Latent] = []
        self.held = Held()

    @property
    def jobs(self) -> Iterator[WorkerJob]:
        """Those of the latents held."""
        return iter(self._jobs.values())

    def apply(self, wish: Membership) -> None:
        """Makes `held` and `line` what `wish` says."""
        if wish.scheduler != self.held.scheduler:
            self._drop_all()
        self._learn(wish)
        wanted = dict.fromkeys((*wish.running, *wish.parked))
        self._drop(name for name in tuple(self._latents) if name not in wanted)
        self._latents = {name: self._hold(name) for name in wanted if name.job in self._jobs}
        self._jobs = {latent.id.job: latent.job for latent in self._latents.values()}
        self._line_up(wish)
        missing = dict.fromkeys(name.job for name in wanted if name.job not in self._jobs)
        self.held = Held(wish.scheduler, wish.number, tuple(self._latents.values()), tuple(missing))

    def reached(self, wish: Membership) -> bool:
        """Whether this boundary, or one before it, is the one from which `wish` holds."""
        if wish.after is None or wish.scheduler != self.held.scheduler:
            return True
        name, evaluations = wish.after
        latent = self._latents.get(name)
        if latent is None or latent.to_go:
            return latent is None or latent.evaluations >= evaluations
        return latent.evaluations >= evaluations or latent.is_decoded

    def _learn(self, wish: Membership) -> None:
        named = {name.job for name in (*wish.running, *wish.parked)}
        for order in wish.orders:
            if order.job in named and order.job not in self._jobs:
                self._jobs[order.job] = self._job_of(order)

    def _hold(self, name: LatentId) -> Latent:
        return self._latents.get(name) or Latent(name, self._jobs[name.job])

    def _drop(self, names: Iterable[LatentId]) -> None:
        for name in names:
            latent = self._latents.pop(name)
            latent.dropped = True
            latent.free()

    def _drop_all(self) -> None:
        self._drop(tuple(self._latents))
        self._jobs.clear()

    def _line_up(self, wish: Membership) -> None:
        caps = wish.caps if len(wish.caps) == len(wish.running) else (None,) * len(wish.running)
        places = dict(zip(wish.running, caps, strict=True))  # whoever is named twice is still one
        self.line = [self._latents[name] for name in places if name in self._latents]
        for latent in self.line:
            latent.cap = places[latent.id]
        for name in wish.parked:
            parked = self._latents.get(name)
            if parked is not None and parked.stage is Stage.WAITING:
                parked.stage = Stage.PARKED
