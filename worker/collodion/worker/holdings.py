"""What this worker holds, brought in line with the scheduler's newest wish.

Device thread only. What is wished for and not held is begun, if its job's order is known; what is held and not wished for is
dropped; the rest changes between running and parked. Nothing is asked back: a job without an order is `missing`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from collodion.wire.jobs import LatentId, Stage
from collodion.wire.to_worker import JobOrder, Membership
from collodion.worker.latent import ENDED, Latent, WorkerJob


@dataclass(frozen=True)
class Held:
    """The outcome of one membership, published whole: who reads it never sees half of a change."""

    scheduler: str = ""
    membership: int = 0
    latents: tuple[Latent, ...] = ()
    missing: tuple[str, ...] = ()


class Holdings:
    """Jobs and latents by name; `running` is in the order of urgency and contains ended ones until they are dropped.

    job_of: makes the job of an order, whose plan may follow later; returns at once.
    """

    def __init__(self, job_of: Callable[[JobOrder], WorkerJob]) -> None:
        self._job_of = job_of
        self._jobs: dict[str, WorkerJob] = {}
        self._latents: dict[LatentId, Latent] = {}
        self.running: list[Latent] = []
        self.held = Held()

    def apply(self, wish: Membership) -> None:
        """Makes `held` and `running` what `wish` says."""
        if wish.scheduler != self.held.scheduler:
            self._drop_all()
        self._learn(wish)
        wanted = dict.fromkeys((*wish.running, *wish.parked))
        self._drop(name for name in tuple(self._latents) if name not in wanted)
        self._latents = {name: self._hold(name) for name in wanted if name.job in self._jobs}
        self._jobs = {latent.id.job: latent.job for latent in self._latents.values()}
        self.running = [self._latents[name] for name in wish.running if name in self._latents]
        self._set_stages()
        missing = dict.fromkeys(name.job for name in wanted if name.job not in self._jobs)
        self.held = Held(wish.scheduler, wish.number, tuple(self._latents.values()), tuple(missing))

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
            latent.dropped, latent.state = True, None

    def _drop_all(self) -> None:
        self._drop(tuple(self._latents))
        self._jobs.clear()

    def _set_stages(self) -> None:
        running = set(map(id, self.running))
        for latent in self._latents.values():
            if latent.stage in ENDED or latent.stage is Stage.DECODING:
                continue
            if id(latent) in running:
                latent.stage = Stage.ENCODING if latent.state is None else Stage.DENOISING
            elif latent.stage is not Stage.PARKED:
                self._park(latent)

    def _park(self, latent: Latent) -> None:
        if latent.state is not None and latent.job.pipeline is not None:
            latent.job.pipeline.park(latent.state)
        latent.stage = Stage.PARKED
