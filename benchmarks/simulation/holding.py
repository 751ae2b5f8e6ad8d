"""What a virtual worker holds, brought in line with a membership as the real one does (`collodion.worker.holdings`).

What is wished for and not held begins at zero, if its job's order is known; what is held and not wished for is dropped; the rest
changes between running and parked. A job whose order is lacking is `missing`.
"""

from dataclasses import dataclass, field

from collodion.wire.jobs import LatentId, Parameters, Stage, StoredImage
from collodion.wire.to_scheduler import LatentReport
from collodion.wire.to_worker import Membership

PAST_STEPS = frozenset({Stage.DECODING, Stage.DONE, Stage.STOPPED})


@dataclass(slots=True, eq=False)
class VirtualJob:
    """What is common to the latents of a job; encoded once for all of them."""

    name: str
    parameters: Parameters
    key: str
    total: int
    encoded: bool = False


@dataclass(slots=True, eq=False)
class VirtualLatent:
    """One latent; `evaluations` of `job.total` are done."""

    id: LatentId
    job: VirtualJob
    stage: Stage = Stage.WAITING
    evaluations: int = 0
    dropped: bool = False
    decoded: bool = False

    def report(self, done: int) -> LatentReport:
        """As the scheduler is told; `done` are its evaluations up to the last boundary."""
        return LatentReport(self.id, self.stage, done, done, self._image() if self.stage is Stage.DONE else None)

    def _image(self) -> StoredImage:
        asked = self.job.parameters
        name, index = f"{self.id.job}/{self.id.image}.png", self.id.image
        return StoredImage(index, asked.seed + index, name, "image/png", asked.width, asked.height, 1, "0" * 64)


@dataclass(slots=True, eq=False)
class Holding:
    """The outcome of the newest membership that was applied."""

    scheduler: str = ""
    number: int = 0
    running: list[VirtualLatent] = field(default_factory=list)
    caps: tuple[int, ...] = ()
    latents: dict[LatentId, VirtualLatent] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    _jobs: dict[str, VirtualJob] = field(default_factory=dict)

    def reached(self, after: tuple[LatentId, int] | None) -> bool:
        """Whether this is the boundary, or a later one, that a membership named."""
        latent = self.latents.get(after[0]) if after else None
        return after is None or latent is None or latent.decoded or latent.evaluations >= after[1]

    def apply(self, wish: Membership) -> None:
        """Becomes what `wish` says."""
        if wish.scheduler != self.scheduler:
            self.drop_all()
        for order in wish.orders:
            if order.job not in self._jobs:
                asked = order.parameters
                self._jobs[order.job] = VirtualJob(order.job, asked, asked.batch_key, asked.steps)
        wanted = (*wish.running, *wish.parked)
        before, self.latents = self.latents, {}
        for name in wanted:
            if (job := self._jobs.get(name.job)) is not None:
                self.latents[name] = before.pop(name) if name in before else VirtualLatent(name, job)
        for latent in before.values():
            latent.dropped = True
        self._jobs = {latent.job.name: latent.job for latent in self.latents.values()}
        self.missing = tuple({name.job: None for name in wanted if name.job not in self._jobs})
        self.running = [self.latents[name] for name in wish.running if name in self.latents]
        self.scheduler, self.number, self.caps = wish.scheduler, wish.number, wish.caps
        self._set_stages(wish)

    def drop_all(self) -> None:
        """Another scheduler: what an earlier one wanted held is nothing to it."""
        for latent in self.latents.values():
            latent.dropped = True
        self.latents, self._jobs, self.running, self.number = {}, {}, [], 0

    def _set_stages(self, wish: Membership) -> None:
        for latent in self.running:
            if latent.stage not in PAST_STEPS:
                latent.stage = Stage.DENOISING if latent.job.encoded else Stage.ENCODING
        for name in wish.parked:
            parked = self.latents.get(name)
            if parked is not None and parked.stage not in PAST_STEPS:
                parked.stage = Stage.PARKED
