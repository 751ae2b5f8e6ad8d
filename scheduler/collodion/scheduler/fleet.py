"""The workers: who they are, what they hold, what was wished of them and what they confirmed; and the models they know.

1. A worker is a peer with an incarnation; a new incarnation is a new worker.
2. `held` and each latent's `worker` say the same. Both change in `take` and `release`, or all at once: when a worker is lost, and
   when `Dispatch.start_over` has them rebuilt.
3. A model stays in the catalogue when its last worker is lost: jobs for it wait until it returns. It goes when the last worker that had
   it says so.
4. A worker knows models, has some of them in memory, and takes latents of those of them that it is to keep (`residency`).
"""

from dataclasses import dataclass, field

from collodion.scheduler.job import Latent
from collodion.wire.jobs import AdapterInfo, LatentId, ModelInfo, ModelStatus, Residency
from collodion.wire.to_scheduler import WorkerState

Wish = tuple[tuple[LatentId, ...], tuple[int, ...], tuple[LatentId, ...]]
"""The latents to run, the caps, and the latents to hold, as the last membership said."""


@dataclass(slots=True, eq=False)
class Worker:
    """One worker process that is alive.

    `cap` bounds its step batch; `running` is its line, as last chosen; `after` is the boundary from which the
    last wish holds; `number` is that of the last
    membership sent, `confirmed` of the last it applied; `known` are jobs whose order it has, `carried` the number of the
    first membership that told it of each other one; `wake` is when its policy wants to be asked again (Unix seconds).

    Of models: `statuses` by name as it said last, `model_bytes` what they may take in all (0: no bound). `wanted` are those that it is to
    have in memory, each with the number of the first wish since which all have named it (0: it had it before any), `draining` those of
    them that it is to be rid of; `wished` is the number of the last wish sent, `heeded` of the last it took up. `takes` are the models of
    which it takes latents.
    """

    peer: bytes
    incarnation: str
    name: str
    device: str
    models: tuple[ModelInfo, ...]
    cap: int
    max_resident: int
    heard: float
    device_kind: str = ""
    encode_batch: int = 1
    decode_batch: int = 1
    statuses: dict[str, ModelStatus] = field(default_factory=dict)
    adapters: tuple[AdapterInfo, ...] = ()
    model_bytes: int = 0
    wanted: dict[str, int] = field(default_factory=dict)
    draining: set[str] = field(default_factory=set)
    wished: int = 0
    heeded: int = 0
    takes: frozenset[str] = frozenset()
    held: dict[LatentId, Latent] = field(default_factory=dict)
    running: tuple[Latent, ...] = ()
    wish: Wish | None = None
    after: tuple[LatentId, int] | None = None
    number: int = 0
    confirmed: int = 0
    known: set[str] = field(default_factory=set)
    carried: dict[str, int] = field(default_factory=dict)
    wake: float | None = None

    @property
    def room(self) -> int:
        """How many more latents it can hold."""
        return self.max_resident - len(self.held)

    def guided_rows(self, key: str) -> int:
        """How many rows a latent of this batch key may take."""
        return next((model.guided_rows for model in self.models if key.startswith(f"{model.name}/")), 1)

    def where(self, model: str) -> Residency | None:
        """Where it has the model; None if it does not know it."""
        status = self.statuses.get(model)
        return status.residency if status is not None else None

    def has_for_good(self, model: str) -> bool:
        """Whether the model is in its memory, and stays there for as long as it is wanted."""
        return self.where(model) is Residency.RESIDENT and 0 <= self.wanted.get(model, -1) <= self.heeded

    def runnable(self) -> list[Latent]:
        """The latents it holds that a step batch may have, first to run first."""
        return sorted((latent for latent in self.held.values() if latent.runnable), key=lambda latent: latent.rank)

    def take(self, latent: Latent) -> None:
        """Holds a latent from now on; no membership has said so yet."""
        self.held[latent.id] = latent
        latent.worker, latent.since = self.peer, 0

    def release(self, latent: Latent) -> None:
        """Holds it no longer."""
        del self.held[latent.id]
        latent.worker, latent.since = None, 0

    def confirm(self, number: int) -> None:
        """It applied this membership, and so knows the orders it has carried."""
        if not self.confirmed < number <= self.number:
            return
        self.confirmed = number
        learned = [job for job, first in self.carried.items() if first <= number]
        for job in learned:
            del self.carried[job]
        self.known.update(learned)

    def lacks(self, job: str) -> None:
        """It does not have this job's order after all."""
        self.known.discard(job)
        self.carried.pop(job, None)


class Fleet:
    """All workers that are alive, and every model known; `version` rises when anything said of models or workers changes."""

    def __init__(self, batch_cap: int | None) -> None:
        self._batch_cap = batch_cap
        self.workers: dict[bytes, Worker] = {}
        self._knowing: dict[str, dict[bytes, Worker]] = {}
        self._taking: dict[str, dict[bytes, Worker]] = {}
        self._models: dict[str, ModelInfo] = {}
        self.version = 0

    def add(self, peer: bytes, state: WorkerState, now: float) -> Worker:
        """A worker that says its state for the first time."""
        worker = Worker(peer, state.incarnation, state.name, state.device, (), 0, 0, now)
        self.workers[peer] = worker
        self.describe(worker, state)
        return worker

    def describe(self, worker: Worker, state: WorkerState) -> None:
        """Notes what it can do, and where it has its models. What it takes is for `take` to say."""
        cap = max(0, min(state.max_batch, self._batch_cap or state.max_batch))
        worker.device_kind, worker.model_bytes = state.device_kind, state.model_bytes
        worker.encode_batch, worker.decode_batch = max(1, state.encode_batch), max(1, state.decode_batch)
        statuses = {model.name: ModelStatus(model.name, Residency.RESIDENT) for model in state.models}
        statuses.update((status.name, status) for status in state.statuses)
        if (worker.statuses, worker.adapters) != (statuses, state.adapters):
            worker.statuses, worker.adapters = statuses, state.adapters
            self.version += 1
        if (worker.models, worker.cap, worker.max_resident) != (state.models, cap, state.max_resident):
            worker.cap, worker.max_resident = cap, state.max_resident
            self._list(worker, state.models)
            self.version += 1

    def take(self, worker: Worker) -> bool:
        """Makes `takes` what its models' places and what is wanted of it come to; whether that changed it."""
        takes = frozenset(name for name in worker.wanted.keys() - worker.draining if worker.has_for_good(name))
        if takes == worker.takes:
            return False
        for name in worker.takes - takes:
            del self._taking[name][worker.peer]
        for name in takes - worker.takes:
            self._taking.setdefault(name, {})[worker.peer] = worker
        worker.takes = takes
        self.version += 1
        return True

    def remove(self, worker: Worker) -> None:
        """It is lost, or left; its latents are the caller's."""
        del self.workers[worker.peer]
        for name in worker.takes:
            del self._taking[name][worker.peer]
        for model in worker.models:
            self._knowing[model.name].pop(worker.peer, None)
        # Its word goes with it where another has the model, which may know other files by that name.
        left = {model.name for model in worker.models}
        for one in {peer: one for name in left for peer, one in self._knowing[name].items()}.values():
            self._models.update((model.name, model) for model in one.models if model.name in left)
        self.version += 1

    def with_model(self, model: str) -> list[Worker]:
        """The workers that take latents of a model."""
        return list(self._taking.get(model, {}).values())

    def has_taker(self, model: str) -> bool:
        """Whether there is such a worker."""
        return bool(self._taking.get(model))

    def knowing(self, model: str) -> list[Worker]:
        """The workers that have a model, in memory or not."""
        return list(self._knowing.get(model, {}).values())

    def models(self) -> tuple[tuple[ModelInfo, int], ...]:
        """Every model known, in the order in which they came, and how many workers have it in memory."""
        return tuple((model, self._residents(name)) for name, model in self._models.items())

    def info(self, model: str) -> ModelInfo | None:
        """What is known of a model that a worker brought."""
        return self._models.get(model)

    def _residents(self, model: str) -> int:
        return sum(worker.where(model) is Residency.RESIDENT for worker in self._knowing.get(model, {}).values())

    def _list(self, worker: Worker, models: tuple[ModelInfo, ...]) -> None:
        before, worker.models = worker.models, models
        said = {model.name: model for model in before}
        for model in before:
            self._knowing[model.name].pop(worker.peer, None)
        for model in models:
            # Of two workers that differ the last one stands that changed its word: not each in turn, at every beat.
            if not self._knowing.get(model.name) or said.get(model.name, model) != model:
                self._models[model.name] = model
            self._knowing.setdefault(model.name, {})[worker.peer] = worker
        for model in before:
            if not self._knowing[model.name]:
                del self._models[model.name]
