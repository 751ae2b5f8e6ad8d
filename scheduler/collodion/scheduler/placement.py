"""Where there is room for a model: on which worker, and in whose place.

1. A worker's models take no more together than it says; one that says no bound has room for all.
2. Who may go now: what nobody asks for, nothing runs on, and is not pinned; who was used longest ago first, and no more than have to.
3. What is pinned stays: by the worker's own settings, or by LoadModel, until UnloadModel.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from collodion.scheduler.demand import Demand
from collodion.scheduler.fleet import Fleet, Worker
from collodion.scheduler.job import LOSSES_ALLOWED, Latent
from collodion.scheduler.loads import LOADS_OF_PATIENCE, LoadCosts
from collodion.scheduler.planner import Planner
from collodion.scheduler.wording import mebibytes
from collodion.wire.jobs import Residency


@dataclass(frozen=True, slots=True)
class Option:
    """A worker that may have the model, in the place of others."""

    worker: Worker
    model: str
    instead_of: tuple[str, ...] = ()


class Placement:
    """Looks for room. `unpinned` are models of workers' settings that UnloadModel took the pins of; `retried` are to be tried again.

    `deaths` counts the workers that died while they loaded a model, since it was loaded last.
    """

    def __init__(self, fleet: Fleet, demand: Demand, planner: Planner, loads: LoadCosts) -> None:
        self._fleet = fleet
        self._demand = demand
        self._planner = planner
        self._loads = loads
        self._used: dict[tuple[bytes, str], float] = {}
        self.unpinned: set[str] = set()
        self.retried: set[tuple[bytes, str]] = set()
        self.deaths: Counter[str] = Counter()

    # ------------------------------------------------------------------ what there is

    def note_uses(self, now: float) -> None:
        """What is busy now is used now."""
        for worker in self._fleet.workers.values():
            for model in self.busy(worker):
                self._used[worker.peer, model] = now

    def forget(self, worker: Worker) -> None:
        """The worker is gone."""
        self._used = {place: when for place, when in self._used.items() if place[0] != worker.peer}
        self.retried = {place for place in self.retried if place[0] != worker.peer}

    def last_use(self, worker: Worker, model: str) -> float:
        """When anything ran on the worker's copy, or asked for the model (Unix seconds)."""
        return max(self._used.get((worker.peer, model), 0.0), self._demand.last(model))

    def busy(self, worker: Worker) -> set[str]:
        """Models of which the worker holds, or has in line, a latent."""
        return {latent.model for latent in self._on(worker)}

    def stranded(self, worker: Worker) -> list[Latent]:
        """What the worker holds, or has in line, of models that it is not to have."""
        strays = (latent for latent in self._on(worker) if latent.model not in worker.wanted)
        return list({latent.id: latent for latent in strays}.values())

    def idle(self, worker: Worker, asked: set[str]) -> set[str]:
        """What may leave it now."""
        kept = self.busy(worker) | asked
        return {name for name in worker.wanted if name not in kept and not self.is_pinned(worker, name)}

    def is_pinned(self, worker: Worker, model: str) -> bool:
        """Whether the worker keeps the model until it is unloaded by name."""
        status = worker.statuses.get(model)
        own = status is not None and status.pinned and model not in self.unpinned
        return own or self._demand.pins.get(model) == worker.peer

    def _on(self, worker: Worker) -> Iterator[Latent]:
        """What it holds, and what it has in line; some twice."""
        yield from worker.held.values()
        plan = self._planner.plans.get(worker.peer)
        if plan is not None:
            yield from (task.latent for task in plan.tasks.values())

    # ------------------------------------------------------------------ what cannot be

    def fault(self, model: str) -> str:
        """Why no worker that is alive could draw with the model, a sentence; empty if one could, or none knows it."""
        reasons = []
        for worker in self._fleet.workers.values():
            if model not in worker.statuses:
                continue
            failed = self.failed(worker, model)
            can_load = not failed and not self.kills(model) and self.fits(worker, model)
            if model in worker.wanted or can_load:
                return ""
            if failed:
                reasons.append(worker.statuses[model].reason)
            else:
                reasons.append(self._deadly(model) if self.kills(model) else self.too_large(worker, model))
        return reasons[0] if reasons else ""

    def kills(self, model: str) -> bool:
        """Whether so many workers died while they loaded it that no further one is to try."""
        return self.deaths[model] >= LOSSES_ALLOWED

    def unusable(self) -> list[tuple[str, str]]:
        """Models that latents wait for in vain, and why."""
        found = []
        for model in self._demand.waited_for():
            if not self._fleet.has_taker(model):
                gone = "" if self._fleet.info(model) is not None else f"the model {model} is not there any more"
                if reason := gone or self.fault(model):
                    found.append((model, reason))
        return found

    # ------------------------------------------------------------------ what could be

    def usable(self, model: str) -> list[Worker]:
        """Workers that could be wished to load it."""
        if self.kills(model):
            return []
        return [
            worker
            for worker in self._fleet.knowing(model)
            if model not in worker.wanted and self.fits(worker, model) and not self.failed(worker, model)
        ]

    def failed(self, worker: Worker, model: str) -> bool:
        """Whether the worker could not load it, and is not to try again; it cannot if it does not know what the model is."""
        again = (worker.peer, model) in self.retried and worker in self._fleet.knowing(model)
        return worker.where(model) is Residency.FAILED and not again

    def fits(self, worker: Worker, model: str) -> bool:
        """Whether the worker has room for the model beside what is pinned."""
        pinned = [name for name in worker.wanted if name != model and self.is_pinned(worker, name)]
        return worker.cap > 0 and (not worker.model_bytes or total(worker, (model, *pinned)) <= worker.model_bytes)

    def too_large(self, worker: Worker, model: str) -> str:
        """That it does not fit, in a sentence."""
        needs, room = mebibytes(size(worker, model)), mebibytes(worker.model_bytes)
        return f"the model {model} takes {needs}, and all models have {room} at {worker.name}, pinned ones included"

    def _deadly(self, model: str) -> str:
        return f"{self.deaths[model]} workers died while they loaded the model {model}; LoadModel has it tried again"

    def options(self, model: str, asked: set[str]) -> list[Option]:
        """The model where it has room, in place of what may go now."""
        found = []
        for worker in self.usable(model):
            instead_of = self.in_place_of(worker, model, self.idle(worker, asked), self.last_use)
            if instead_of is not None:
                found.append(Option(worker, model, instead_of))
        return found

    def in_place_of(
        self, worker: Worker, model: str, may_go: Collection[str], order: Callable[[Worker, str], float]
    ) -> tuple[str, ...] | None:
        """Which of those that may go have to, the least first, for the model to have room; None if all of them are not enough."""
        missing = lacks(worker, model)
        going: list[str] = []
        for name in sorted(may_go, key=lambda name: (order(worker, name), name)):
            if missing <= 0:
                break
            if size(worker, name):
                going.append(name)
                missing -= size(worker, name)
        if missing > 0:
            return None
        for name in going[:-1]:  # the last one may free so much that others, before it, need not go
            if missing + size(worker, name) <= 0:
                missing += size(worker, name)
                going.remove(name)
        return tuple(going)

    def is_long_idle(self, option: Option, now: float) -> bool:
        """Whether what would go was not used for so long that a further copy of another model is worth more."""
        worker = option.worker
        return all(
            now - self.last_use(worker, name) > LOADS_OF_PATIENCE * self._loads.seconds(worker, name)
            for name in option.instead_of
        )

    def could_be_in(self, worker: Worker, model: str) -> float:
        """Seconds until the model could be there, were it wished for now; in the place of what is busy, no sooner than its turn comes."""
        load_s = self._loads.ready_in(worker, model) + self._loads.seconds(worker, model)
        has_place = self.in_place_of(worker, model, self.idle(worker, set()), self.last_use) is not None
        return load_s if has_place else load_s + self._loads.patience_s(worker, model)

    def waiting_s(self, model: str) -> float:
        """Device time of what waits for the model; 0 while its costs are not known."""
        lines = self._demand.lines(model)
        return sum(count * self._planner.least_s(job) / max(1, len(job.latents)) for count, job in lines)

    def price(self, option: Option) -> tuple[float, int, str]:
        """Least first: the time until the model is there, and what loading again costs whom it takes the place of."""
        worker = option.worker
        load_s = self._loads.ready_in(worker, option.model) + self._loads.seconds(worker, option.model)
        again_s = sum(self._loads.seconds(worker, name) for name in option.instead_of)
        return load_s + again_s, len(worker.held), worker.name


def size(worker: Worker, model: str) -> int:
    """Bytes that the model takes, or will take, of the worker's device."""
    status = worker.statuses.get(model)
    return status.size_bytes if status is not None else 0


def total(worker: Worker, models: Iterable[str]) -> int:
    """Bytes that these take together."""
    return sum(size(worker, model) for model in models)


def lacks(worker: Worker, model: str) -> int:
    """Bytes that have to be freed before the model has room beside what the worker is to have; 0 or less if it has."""
    return total(worker, worker.wanted.keys() | {model}) - worker.model_bytes if worker.model_bytes else 0
