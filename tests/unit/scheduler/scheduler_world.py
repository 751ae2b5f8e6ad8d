"""A scheduler's core with a virtual clock, and peers in memory: no socket, no sleep, every run repeatable.

Messages lie in queues, one for each direction of each peer, until somebody delivers them: a test may lose, repeat and reorder them.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from collodion.scheduler.config import SchedulerConfig
from collodion.scheduler.core import Core
from collodion.scheduler.events import (
    Command,
    Event,
    Forget,
    FrontendSaid,
    Persist,
    Persisted,
    SendFailed,
    TellFrontend,
    Ticked,
    WorkerSaid,
)
from collodion.scheduler.ids import JobIds
from collodion.wire.jobs import (
    Failure,
    JobSpec,
    LatentId,
    ModelInfo,
    ModelStatus,
    Optimization,
    Parameters,
    Reason,
    Residency,
    Stage,
    StoredImage,
)
from collodion.wire.to_frontend import (
    Accepted,
    Catalogue,
    Ended,
    ImageFailed,
    ImageStored,
    JobAnswer,
    JobEvent,
    JobsAnswer,
    JobView,
    ModelAnswer,
    Refused,
)
from collodion.wire.to_scheduler import (
    CancelJob,
    FrontendBeat,
    GetJob,
    Lane,
    LatentReport,
    LeaveJob,
    ListJobs,
    LoadModel,
    SubmitJob,
    UnloadModel,
    WatchJob,
    WorkerLeft,
    WorkerReport,
    WorkerState,
)
from collodion.wire.to_worker import JobOrder, Membership, ResidencyWish, SchedulerBeat

START = 1_700_000_000.0
TIERS = ("interactive=30", "standard=120", "batch=none")


def model(name: str = "shapes") -> ModelInfo:
    return ModelInfo(
        name=name,
        family="simulated",
        native_width=64,
        native_height=64,
        min_size=8,
        max_size=512,
        size_multiple=8,
        default_steps=4,
        max_steps=100,
        default_sampler="ddim",
        samplers=("ddim",),
        default_guidance_scale=4.0,
        max_prompt_tokens=77,
        dtype="float32",
    )


def spec(
    images: int = 1,
    steps: int = 4,
    width: int = 64,
    model: str = "shapes",
    tenant: str = "ada",
    tier: str = "standard",
    **more: Any,
) -> JobSpec:
    parameters = Parameters(
        model=model,
        prompt="a red circle",
        negative_prompt="",
        width=width,
        height=64,
        steps=steps,
        sampler="ddim",
        guidance_scale=4.0,
        seed=7,
        images=images,
    )
    return JobSpec(parameters=parameters, tenant=tenant, tier=tier, **more)


@dataclass(eq=False)
class SimulatedWorker:
    """A worker without a device that keeps to the protocol to the letter; one `step` is one boundary.

    Of its models those that are not `on_disk` are in memory from the start. Loading one takes `load_steps` of its steps, and ends with the
    reason in `broken`, if it is there. `sizes` and `model_bytes` are in any unit.
    """

    incarnation: str
    models: tuple[ModelInfo, ...] = (model(),)
    max_batch: int = 4
    max_resident: int = 16
    scheduler: str = ""
    number: int = 0
    running: tuple[LatentId, ...] = ()
    caps: tuple[int, ...] = ()
    orders: dict[str, Parameters] = field(default_factory=dict)
    latents: dict[LatentId, LatentReport] = field(default_factory=dict)
    inbox: deque[Any] = field(default_factory=deque)
    outbox: deque[tuple[Any, bytes]] = field(default_factory=deque)
    batches: list[tuple[LatentId, ...]] = field(default_factory=list)
    poison: set[LatentId] = field(default_factory=set)
    on_disk: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    model_bytes: int = 0
    pinned: frozenset[str] = frozenset()
    load_steps: int = 2
    load_s: float | None = 0.02
    broken: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    loading: tuple[str, int] | None = None
    wish: ResidencyWish | None = None
    loads: list[str] = field(default_factory=list)
    optimizations: dict[str, tuple[Optimization, ...]] = field(default_factory=dict)
    alive: bool = True

    @property
    def peer(self) -> bytes:
        return self.incarnation.encode()

    def beat(self) -> None:
        state = WorkerState(
            self.incarnation,
            f"worker-{self.incarnation}",
            "cpu",
            self.models,
            self.max_batch,
            self.max_resident,
            self.scheduler,
            self.number,
            tuple(self.latents.values()),
            statuses=self._statuses() if self.sizes else (),
            model_bytes=self.model_bytes,
            wished=self.wish.number if self.wish is not None and self.wish.scheduler == self.scheduler else 0,
        )
        self.outbox.append((state, b""))

    def leave(self) -> None:
        self.outbox.append((WorkerLeft(self.incarnation), b""))

    def hear(self, message: Any) -> None:
        if isinstance(message, SchedulerBeat):
            if message.scheduler != self.scheduler:
                self._serve(message.scheduler)
            return
        if message.worker != self.incarnation:
            return
        if message.scheduler != self.scheduler:
            self._serve(message.scheduler)
        if isinstance(message, ResidencyWish):
            self._take(message)
        elif message.number > self.number:
            self._apply(message)

    def step(self) -> None:
        """One evaluation of the batch, and whatever else is due; reported."""
        self._settle_models()
        report = []
        batch = self._window()
        if batch:
            self.batches.append(batch)
        for name in batch:
            assert self.orders[name.job].model not in self.on_disk, "no model, no step"
            self.latents[name] = self._advanced(self.latents[name])
            report.append(self.latents[name])
        for name, latent in self.latents.items():
            if latent.stage is Stage.DECODING and name not in batch:
                self.latents[name] = self._stored(latent)
                report.append(self.latents[name])
        missing = tuple({name.job for name in self.running if name not in self.latents})
        if report or missing:
            keys = [self.orders[one.id.job].batch_key for one in report if one.id.job in self.orders]
            key = next(iter(keys), "shapes/64x64")
            lanes = (Lane("step", key, len(batch), 0.01 * len(batch)),) if batch else ()
            lanes += tuple(Lane("decode", key, 1, 0.0) for one in report if one.stage is Stage.DONE)[:1]
            self.outbox.append(
                (WorkerReport(self.incarnation, self.scheduler, self.number, tuple(report), lanes, missing), b"")
            )

    def _take(self, wish: ResidencyWish) -> None:
        if self.wish is not None and self.wish.scheduler == wish.scheduler and wish.number <= self.wish.number:
            return
        self.wish = wish
        self.failed = {name: reason for name, reason in self.failed.items() if name not in wish.models}
        self.beat()

    def _settle_models(self) -> None:
        """Lets models out and in, one boundary further."""
        if self.wish is None:
            return
        before = self._statuses()
        needed = {self.orders[name.job].model for name in self.latents}
        known = {model.name for model in self.models}
        self.on_disk |= known - self.on_disk - needed - set(self.wish.models)
        taken = sum(self.sizes.get(name, 0) for name in known - self.on_disk)
        wanted = (name for name in self.wish.models if name in self.on_disk and name not in self.failed)
        name = next(wanted, None)
        if name is None or (self.loading is not None and self.loading[0] != name):
            self.loading = None
        if name is not None and (not self.model_bytes or taken + self.sizes.get(name, 0) <= self.model_bytes):
            self._load(name)
        if self._statuses() != before:
            self.beat()

    def _load(self, name: str) -> None:
        done = self.loading[1] + 1 if self.loading is not None else 0
        self.loading = name, done
        if done == 0:
            self.loads.append(name)
        if done >= self.load_steps:
            self.loading = None
            if name in self.broken:
                self.failed[name] = self.broken[name]
            else:
                self.on_disk.discard(name)

    def _statuses(self) -> tuple[ModelStatus, ...]:
        return tuple(self._status(model.name) for model in self.models)

    def _status(self, name: str) -> ModelStatus:
        size, pinned = self.sizes.get(name, 0), name in self.pinned
        if name not in self.on_disk:
            fast = self.optimizations.get(name, ())
            return ModelStatus(name, Residency.RESIDENT, size, pinned=pinned, load_s=self.load_s, optimizations=fast)
        if name in self.failed:
            return ModelStatus(name, Residency.FAILED, size, reason=self.failed[name], pinned=pinned)
        if self.loading is not None and self.loading[0] == name:
            done = self.loading[1] / self.load_steps
            return ModelStatus(name, Residency.LOADING, size, progress=done, pinned=pinned)
        return ModelStatus(name, Residency.ON_DISK, size, pinned=pinned)

    def _window(self) -> tuple[LatentId, ...]:
        ready = [
            (place, name)
            for place, name in enumerate(self.running)
            if name in self.latents and not self._past_steps(name)
        ]
        most = self.max_batch if not ready or not self.caps else min(self.max_batch, self.caps[ready[0][0]])
        key = self.orders[ready[0][1].job].batch_key if ready else ""
        return tuple(name for _, name in ready if self.orders[name.job].batch_key == key)[:most]

    def _serve(self, scheduler: str) -> None:
        self.scheduler, self.number, self.running = scheduler, 0, ()
        self.latents.clear()
        self.beat()

    def _apply(self, membership: Membership) -> None:
        self.number = membership.number
        for order in membership.orders:
            self.orders[order.job] = order.parameters
        wanted = (*membership.running, *membership.parked)
        self.latents = {
            name: self.latents.get(name) or LatentReport(name, Stage.WAITING)
            for name in wanted
            if name.job in self.orders
        }
        self.orders = {job: order for job, order in self.orders.items() if any(name.job == job for name in wanted)}
        self.running, self.caps = membership.running, membership.caps
        parked = [name for name in membership.parked if name in self.latents]
        for name in parked:
            if not self._past_steps(name):
                self._set(name, stage=Stage.PARKED)

    def _set(self, name: LatentId, **changes: Any) -> None:
        old = self.latents[name]
        values = {field: getattr(old, field) for field in old.__struct_fields__} | changes
        self.latents[name] = LatentReport(**values)

    def _past_steps(self, name: LatentId) -> bool:
        return self.latents[name].stage in (Stage.DECODING, Stage.DONE, Stage.STOPPED)

    def _advanced(self, latent: LatentReport) -> LatentReport:
        if latent.id in self.poison:
            failure = Failure(Reason.NON_FINITE_LATENT, "the latent is not finite")
            return LatentReport(latent.id, Stage.STOPPED, latent.evaluations, latent.steps, failure=failure)
        done = latent.evaluations + 1
        last = done >= self.orders[latent.id.job].steps_run
        return LatentReport(latent.id, Stage.DECODING if last else Stage.DENOISING, done, done)

    def _stored(self, latent: LatentReport) -> LatentReport:
        name = latent.id
        image = StoredImage(
            name.image, 7 + name.image, f"{name.job}/{name.image}.png", "image/png", 64, 64, 100, "0" * 64
        )
        return LatentReport(name, Stage.DONE, latent.evaluations, latent.steps, image)


@dataclass(eq=False)
class FakeFrontend:
    """A frontend that only notes what it hears, by call."""

    incarnation: str
    inbox: deque[Any] = field(default_factory=deque)
    outbox: deque[tuple[Any, bytes]] = field(default_factory=deque)
    watching: dict[int, str] = field(default_factory=dict)
    events: dict[int, list[Any]] = field(default_factory=dict)
    answers: dict[int, Any] = field(default_factory=dict)
    catalogue: Catalogue | None = None
    calls: int = 0
    alive: bool = True
    reads: bool = True

    @property
    def peer(self) -> bytes:
        return self.incarnation.encode()

    def submit(self, job: JobSpec, watch: bool = True) -> int:
        return self._call(lambda number: SubmitJob(number, job, watch), "" if watch else None)

    def watch(self, job: str, tenant: str = "ada") -> int:
        return self._call(lambda number: WatchJob(number, tenant, job), job)

    def leave(self, call: int) -> None:
        self.watching.pop(call, None)
        self.outbox.append((LeaveJob(call), b""))

    def cancel(self, job: str, tenant: str = "ada") -> int:
        return self._call(lambda number: CancelJob(number, tenant, job))

    def get(self, job: str, tenant: str = "ada") -> int:
        return self._call(lambda number: GetJob(number, tenant, job))

    def load(self, model: str) -> int:
        return self._call(lambda number: LoadModel(number, model))

    def unload(self, model: str) -> int:
        return self._call(lambda number: UnloadModel(number, model))

    def list_jobs(self, page_size: int = 50, tenant: str = "ada", **more: Any) -> int:
        return self._call(lambda number: ListJobs(number, tenant, page_size, **more))

    def beat(self) -> None:
        self.outbox.append((FrontendBeat(self.incarnation, dict(self.watching)), b""))

    def hear(self, message: Any) -> None:
        if isinstance(message, JobEvent):
            for call in message.calls:
                self._event(call, message)
        elif isinstance(message, JobAnswer | JobsAnswer | ModelAnswer | Refused):
            self.answers[message.call] = message
            if isinstance(message, Refused):
                self.watching.pop(message.call, None)
        elif isinstance(message, Catalogue):
            self.catalogue = message

    def job(self, call: int) -> str:
        """The job that the call was told of."""
        if call in self.answers:
            view: JobView = self.answers[call].view
            return view.job
        accepted = self.events[call][0]
        assert isinstance(accepted, Accepted)
        return accepted.view.job

    def kinds(self, call: int) -> list[str]:
        return [type(event).__name__ for event in self.events.get(call, [])]

    def of(self, call: int, kind: type) -> list[Any]:
        return [event for event in self.events.get(call, []) if isinstance(event, kind)]

    def _event(self, call: int, message: JobEvent) -> None:
        if call not in self.watching:
            return  # the client is gone, as for a frontend
        self.events.setdefault(call, []).append(message.event)
        self.watching[call] = message.job
        if isinstance(message.event, Ended):
            del self.watching[call]

    def _call(self, message: Any, job: str | None = None) -> int:
        self.calls += 1
        if job is not None:
            self.watching[self.calls] = job
        self.outbox.append((message(self.calls), b""))
        return self.calls


class World:
    """The core, its clock and its peers."""

    def __init__(self, **settings: Any) -> None:
        self.config = SchedulerConfig(**{"admission_window_s": 0.0, "tiers": TIERS, **settings})
        self.now = START
        self.frontends: list[FakeFrontend] = []
        self.workers: list[SimulatedWorker] = []
        self.commands: list[Command] = []
        self.persisting = True
        self.unpersisted: list[str] = []
        self.stored: dict[str, JobView] = {}
        self.starts = 0
        self.listener: Any = None
        self.start_scheduler()

    def start_scheduler(self) -> None:
        self.starts += 1
        ids = JobIds(lambda bits: self.starts << 40)
        self.core = Core(self.config, f"scheduler-{self.starts}", ids, self.now)
        self.stored.clear()
        self.unpersisted.clear()

    def frontend(self) -> FakeFrontend:
        frontend = FakeFrontend(f"frontend-{len(self.frontends)}")
        self.frontends.append(frontend)
        frontend.beat()
        return frontend

    def worker(self, **more: Any) -> SimulatedWorker:
        worker = SimulatedWorker(f"worker-{len(self.workers)}", **more)
        self.workers.append(worker)
        worker.beat()
        return worker

    def handle(self, event: Event) -> list[Command]:
        """One event, and what follows from it at once; the commands are carried out."""
        commands = self.core.handle(event, self.now)
        self.carry_out(commands)
        return commands

    def carry_out(self, commands: list[Command]) -> None:
        self.commands += commands
        failed, persisted = [], []
        for command in commands:
            if isinstance(command, Persist):
                self.stored[command.view.job] = command.view
                persisted.append(command.view.job)
            elif isinstance(command, Forget):
                self.stored.pop(command.job, None)
            elif not self._deliver(command) and isinstance(command, TellFrontend):
                failed.append(SendFailed(command.peer, command.message))
                continue
            if self.listener is not None:
                self.listener.heard(command)
        for event in failed:
            self.handle(event)
        self.unpersisted += persisted
        if self.persisting and self.unpersisted:
            self.persist()

    def persist(self) -> None:
        jobs, self.unpersisted = tuple(self.unpersisted), []
        self.handle(Persisted(jobs))

    def deliver_up(self, peer: FakeFrontend | SimulatedWorker) -> None:
        """The oldest message of a peer reaches the core."""
        message, opaque = peer.outbox.popleft()
        self.say(peer, message, opaque)

    def say(self, peer: FakeFrontend | SimulatedWorker, message: Any, opaque: bytes = b"") -> list[Command]:
        if isinstance(peer, FakeFrontend):
            return self.handle(FrontendSaid(peer.peer, message))
        return self.handle(WorkerSaid(peer.peer, message, opaque))

    def settle(self) -> None:
        """All messages arrive, in order, until none is under way."""
        while busy := [peer for peer in self.peers() if peer.outbox or peer.inbox]:
            for peer in busy:
                while peer.inbox:
                    peer.hear(peer.inbox.popleft())
                while peer.outbox:
                    self.deliver_up(peer)

    def step(self, times: int = 1) -> None:
        """Every worker runs so many evaluations."""
        for _ in range(times):
            self.settle()
            for worker in self.workers:
                if worker.alive:
                    worker.step()
            self.now += 0.01
        self.settle()

    def pass_time(self, seconds: float, beats: bool = True) -> None:
        """Time passes; whoever lives beats."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + self.config.beat_s)
            for peer in self.peers():
                if beats and peer.alive:
                    peer.beat()
            self.settle()
            while self.core.next_wake() <= self.now:
                self.handle(Ticked())
            self.settle()

    def run(self, most: int = 500) -> None:
        """Steps until every job has ended."""
        for _ in range(most):
            self.step()
            self.pass_time(0.1)
            if not self.core.book.live:
                return
        raise AssertionError(f"{len(self.core.book.live)} jobs do not end")

    def peers(self) -> list[FakeFrontend | SimulatedWorker]:
        return [peer for peer in (*self.workers, *self.frontends) if peer.alive]

    def _deliver(self, command: Any) -> bool:
        for peer in (*self.workers, *self.frontends):
            if peer.peer == command.peer and peer.alive and getattr(peer, "reads", True):
                peer.inbox.append(command.message)
                return True
        return False


__all__ = [
    "START",
    "FakeFrontend",
    "ImageFailed",
    "ImageStored",
    "JobOrder",
    "SimulatedWorker",
    "World",
    "model",
    "spec",
]
