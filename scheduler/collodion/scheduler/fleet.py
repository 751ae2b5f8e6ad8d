"""The workers: who they are, what they hold, what was wished of them and what they confirmed; and the models they bring.

1. A worker is a peer with an incarnation; a new incarnation is a new worker.
2. `held` and each latent's `worker` say the same. Both change in `take` and `release`, or all at once: when a worker is lost, and
   when `Dispatch.start_over` has them rebuilt.
3. A model stays in the catalogue when its last worker is lost: jobs for it wait until it returns.
"""

from dataclasses import dataclass, field

from collodion.scheduler.job import Latent
from collodion.wire.jobs import LatentId, ModelInfo
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
    model_names: frozenset[str] = frozenset()
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
    """All workers that are alive, and every model ever seen; `version` rises when `models` changes."""

    def __init__(self, batch_cap: int | None) -> None:
        self._batch_cap = batch_cap
        self.workers: dict[bytes, Worker] = {}
        self._of_model: dict[str, dict[bytes, Worker]] = {}
        self._models: dict[str, ModelInfo] = {}
        self.version = 0

    def add(self, peer: bytes, state: WorkerState, now: float) -> Worker:
        """A worker that says its state for the first time."""
        worker = Worker(peer, state.incarnation, state.name, state.device, (), 0, 0, now)
        self.workers[peer] = worker
        self.describe(worker, state)
        return worker

    def describe(self, worker: Worker, state: WorkerState) -> None:
        """Notes what it can do."""
        cap = max(0, min(state.max_batch, self._batch_cap or state.max_batch))
        worker.device_kind = state.device_kind
        worker.encode_batch, worker.decode_batch = max(1, state.encode_batch), max(1, state.decode_batch)
        if (worker.models, worker.cap, worker.max_resident) == (state.models, cap, state.max_resident):
            return
        self._unlist(worker)
        self.version += 1
        worker.models, worker.cap, worker.max_resident = state.models, cap, state.max_resident
        worker.model_names = frozenset(model.name for model in state.models)
        for model in state.models:
            # While another worker has the model, its word stands: two that differ would change it at every beat.
            if not self._of_model.get(model.name):
                self._models[model.name] = model
            self._of_model.setdefault(model.name, {})[worker.peer] = worker

    def remove(self, worker: Worker) -> None:
        """It is lost, or left; its latents are the caller's."""
        del self.workers[worker.peer]
        self._unlist(worker)
        self.version += 1

    def with_model(self, model: str) -> list[Worker]:
        """The workers that have a model."""
        return list(self._of_model.get(model, {}).values())

    def models(self) -> tuple[tuple[ModelInfo, int], ...]:
        """Every model ever seen, in that order, and how many workers have it now."""
        return tuple((model, len(self._of_model.get(name, {}))) for name, model in self._models.items())

    def info(self, model: str) -> ModelInfo | None:
        """What is known of a model that a worker ever brought."""
        return self._models.get(model)

    def _unlist(self, worker: Worker) -> None:
        for name in worker.model_names:
            self._of_model[name].pop(worker.peer, None)
