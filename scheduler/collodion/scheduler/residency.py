"""Which models each worker is to have in memory, said as wishes (`ResidencyWish`).

1. Nothing is loaded unless it is asked for (`demand`), and nothing leaves but for another's sake (`placement`), or by UnloadModel. So a new
   scheduler begins with what workers have.
2. Where everything in the way is busy all the time, models take turns: after a patience, and as long in memory, the one that has been there
   longest is drained. It takes no new latents, and leaves with its last.
3. A further copy is loaded where there is room, when what waits for a model is a multiple of what loading it costs.
4. Wishes say everything, and are said again until they are heeded. Pins by LoadModel live in this process only.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from collodion.scheduler.config import SchedulerConfig
from collodion.scheduler.demand import Demand
from collodion.scheduler.events import Outbox, TellWorker
from collodion.scheduler.fleet import Fleet, Worker
from collodion.scheduler.loads import LoadCosts
from collodion.scheduler.placement import Option, Placement, lacks, total
from collodion.scheduler.planner import Planner
from collodion.wire.jobs import Residency
from collodion.wire.to_scheduler import WorkerState
from collodion.wire.to_worker import ResidencyWish

_LOOK_S = 1.0  # how often it is looked whether further copies are worth their loading
_UNSENT = 1 << 62  # above all numbers: named by no wish yet
_COMES_AGAIN_S = 15.0  # how long a model is kept for who was refused, beyond the moment that he was told

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Turn:
    """A worker whose `victims` are drained for a model that waits."""

    worker: Worker
    victims: tuple[str, ...]


class ResidencyRule:
    """See the module. Decides in `settle`, once an event. `version` rises when pins or wishes change."""

    def __init__(
        self,
        incarnation: str,
        config: SchedulerConfig,
        fleet: Fleet,
        demand: Demand,
        planner: Planner,
        outbox: Outbox,
    ) -> None:
        self._incarnation = incarnation
        self._config = config
        self._fleet = fleet
        self._demand = demand
        self._outbox = outbox
        self._number = 0
        self._leaving: set[tuple[bytes, str]] = set()
        self._turns: dict[str, _Turn] = {}
        self._there: dict[tuple[bytes, str], float] = {}
        self._rewished: dict[bytes, Worker] = {}
        self._retaken: dict[bytes, Worker] = {}
        self._dirty = True
        self._look_at = 0.0
        self.loads = LoadCosts(config.load_mib_s, config.turn_s)
        self.placement = Placement(fleet, demand, planner, self.loads)
        self._loaded_s: list[float] = []
        self._dropped = 0
        self.version = 0

    # ------------------------------------------------------------------ what workers say

    def heard(self, worker: Worker, state: WorkerState, now: float) -> None:
        """The worker said how its models stand."""
        worker.heeded = state.wished if state.scheduler == self._incarnation else 0
        if not worker.wished:
            # Until our first wish it does what another scheduler wished: whatever it has is its own affair.
            there = (Residency.RESIDENT, Residency.LOADING)
            worker.wanted = {name: 0 for name, status in worker.statuses.items() if status.residency in there}
        for name, number in list(worker.wanted.items()):
            where = worker.where(name)
            if where is Residency.RESIDENT:
                if (worker.peer, name) not in self._there:
                    self._there[worker.peer, name] = now
                    self.placement.deaths.pop(name, None)
                continue
            self._there.pop((worker.peer, name), None)
            if where in (Residency.FAILED, None) and number <= worker.heeded:
                del worker.wanted[name]
                _log.warning("a model cannot be loaded", extra={"worker": worker.name, "model": name})
        self._loaded_s += [load_s for name, load_s in self.loads.learn(worker) if worker.wanted.get(name)]
        self._take(worker)
        self._dirty = True
        if worker.heeded < worker.wished:
            self._say(worker)

    def lost(self, worker: Worker, by_death: bool) -> None:
        """The worker is gone, and what it had. One model's loading may be what kills workers: they are not to go one after the other."""
        if by_death:
            self.placement.deaths.update(name for name in worker.wanted if worker.where(name) is Residency.LOADING)
        self.loads.forget(worker)
        self.placement.forget(worker)
        self._there = {place: when for place, when in self._there.items() if place[0] != worker.peer}
        self._leaving = {place for place in self._leaving if place[0] != worker.peer}
        self._turns = {model: turn for model, turn in self._turns.items() if turn.worker is not worker}
        for known in (self._rewished, self._retaken):
            known.pop(worker.peer, None)
        self._dirty = True

    # ------------------------------------------------------------------ what clients say

    def asked(self, model: str, now: float) -> None:
        """A job asks for the model."""
        self._demand.asked(model, now)
        self._leaving = {place for place in self._leaving if place[1] != model}

    def refused(self, model: str, now: float) -> None:
        """A job was refused a promise because the model is not in memory: it is loaded for when the client comes again."""
        self._demand.refused(model, now + (self.ready_in(model) or 0.0) + _COMES_AGAIN_S)

    def pin(self, model: str, now: float) -> None:
        """It is to be in memory on one worker at least, and to stay. Who failed to load it tries again."""
        self.placement.unpinned.discard(model)
        self._demand.pins.setdefault(model, None)
        failed = [one for one in self._fleet.workers.values() if one.where(model) is Residency.FAILED]
        self.placement.retried |= {(worker.peer, model) for worker in failed}
        self.placement.deaths.pop(model, None)
        self.asked(model, now)
        self._dirty = True
        self.version += 1

    def unpin(self, model: str) -> None:
        """It is to leave when nothing runs on it and nobody asks for it."""
        self._demand.pins.pop(model, None)
        self.placement.unpinned.add(model)
        self._leaving |= {(one.peer, model) for one in self._fleet.workers.values() if model in one.wanted}
        self._dirty = True
        self.version += 1

    # ------------------------------------------------------------------ what others ask

    def ready_in(self, model: str) -> float | None:
        """Seconds until some worker takes latents of it, were it wished for now; None if none can be expected to."""
        coming = [worker for worker in self._fleet.knowing(model) if _is_to_have(worker, model)]
        if coming:
            return min(self.loads.ready_in(worker, model) for worker in coming)
        return min((self.placement.could_be_in(worker, model) for worker in self.placement.usable(model)), default=None)

    def makes_way(self, model: str) -> tuple[str, tuple[str, ...]] | None:
        """The worker at which others are drained for this model, and those others; None if there is none."""
        turn = self._turns.get(model)
        return None if turn is None else (turn.worker.name, turn.victims)

    def is_coming(self, model: str) -> bool:
        """Whether some worker has it, or is to load it."""
        return any(_is_to_have(worker, model) for worker in self._fleet.knowing(model))

    def is_pinned(self, model: str) -> bool:
        """Whether some worker keeps it, or will, until it is unloaded by name."""
        pinned = model in self._demand.pins
        return pinned or any(self.placement.is_pinned(worker, model) for worker in self._fleet.knowing(model))

    def done(self) -> tuple[list[float], int]:
        """Since it was asked last: what loads took that were wished for (seconds), and how many models had to leave."""
        done = self._loaded_s, self._dropped
        self._loaded_s, self._dropped = [], 0
        return done

    def waiting(self) -> int:
        """How many models are asked for and have no place."""
        return len(self._demand.since)

    # ------------------------------------------------------------------ deciding

    def wake(self) -> float | None:
        """When it wants to decide again though nothing happens (Unix seconds)."""
        return self._look_at if self._demand.since or self._turns else None

    def settle(self, now: float) -> list[Worker]:
        """Decides anew, if there is anything to decide; the workers that take latents of other models than before."""
        self._find_pins()
        asked = self._demand.models(now)
        if self._is_due(asked, now):
            self._dirty = False
            self.placement.note_uses(now)
            for model in self._demand.note(asked, self.is_coming, now):
                self._provide(model, asked, now)
            self._end_turns()
            self._let_go(asked)
            if now >= self._look_at:
                self._look_at = now + _LOOK_S
                self._add_copies(asked, now)
        rewished, self._rewished = list(self._rewished.values()), {}
        for worker in rewished:
            self._wish(worker)
        retaken, self._retaken = list(self._retaken.values()), {}
        return retaken

    def mend(self) -> None:
        """After a defect: what was under way is called off, and decided anew."""
        self._turns.clear()
        for worker in self._fleet.workers.values():
            worker.draining.clear()
            if _UNSENT in worker.wanted.values():
                self._rewished[worker.peer] = worker
        self._dirty = True

    def _is_due(self, asked: Iterable[str], now: float) -> bool:
        pending = self._dirty or self._turns or self._leaving or self._demand.since or now >= self._look_at
        return bool(pending) or not all(self._fleet.has_taker(model) or self.is_coming(model) for model in asked)

    def _find_pins(self) -> None:
        """Each model that LoadModel pinned is one worker's to keep: that has it, or is to load it. If nobody can, the pin is void."""
        for model, peer in list(self._demand.pins.items()):
            holder = self._fleet.workers.get(peer) if peer is not None else None
            if holder is not None and model in holder.wanted:
                continue
            having = (worker.peer for worker in self._fleet.knowing(model) if _is_to_have(worker, model))
            self._demand.pins[model] = next(having, None)
            if self._demand.pins[model] is None and self.placement.fault(model):
                del self._demand.pins[model]
                self.version += 1

    def _provide(self, model: str, asked: set[str], now: float) -> None:
        """Finds a place for a model that is asked for and is nowhere."""
        mine = self._turns.get(model)
        options = [
            option
            for option in self.placement.options(model, asked)
            if not option.worker.draining or (mine is not None and mine.worker is option.worker)
        ]
        if options:
            self._carry_out(min(options, key=self.placement.price))
        elif mine is None:
            turns = [turn for one in self.placement.usable(model) if (turn := self._turn(one, model, asked, now))]
            if turns:
                self._begin_turn(model, min(turns, key=lambda turn: self.loads.seconds(turn.worker, model)))

    def _turn(self, worker: Worker, model: str, asked: set[str], now: float) -> _Turn | None:
        """The model on this worker, in place of what has been there for long enough."""
        patience_s = self.loads.patience_s(worker, model)
        if now - self._demand.since[model] < patience_s or worker.draining:
            return None
        idle = self.placement.idle(worker, asked)
        there = {name: self._there.get((worker.peer, name), now) for name in worker.takes}
        due = {name for name, since in there.items() if now - since >= patience_s}
        due = {name for name in due if not self.placement.is_pinned(worker, name)}
        # What is idle goes before what is busy, and of these who came first.
        victims = self.placement.in_place_of(
            worker, model, idle | due, lambda _, name: 0.0 if name in idle else there[name]
        )
        return None if victims is None else _Turn(worker, victims)

    def _begin_turn(self, model: str, turn: _Turn) -> None:
        self._turns[model] = turn
        turn.worker.draining.update(turn.victims)
        self._take(turn.worker)
        _log.info("models take turns", extra=_words(turn.worker, model, turn.victims))

    def _end_turns(self) -> None:
        """Gives the place of those that have drained to who waits for it, and calls off what has become needless."""
        for model, turn in list(self._turns.items()):
            waits = model in self._demand.since
            if waits and not self.placement.busy(turn.worker).isdisjoint(turn.victims):
                continue
            self._call_off(model)
            victims = [name for name in turn.victims if name in turn.worker.wanted]
            if waits and lacks(turn.worker, model) <= total(turn.worker, victims):
                self._carry_out(Option(turn.worker, model, tuple(victims)))

    def _call_off(self, model: str) -> None:
        if (turn := self._turns.pop(model, None)) is not None:
            turn.worker.draining.difference_update(turn.victims)
            self._take(turn.worker)
            self._dirty = True

    def _let_go(self, asked: set[str]) -> None:
        """Unloads what UnloadModel named."""
        for peer, model in list(self._leaving):
            worker = self._fleet.workers[peer]
            if model not in worker.wanted:
                self._leaving.discard((peer, model))
            elif model not in asked and model not in self.placement.busy(worker):
                self._drop(worker, model)

    def _add_copies(self, asked: set[str], now: float) -> None:
        for model in asked:
            takers = self._fleet.with_model(model)
            if not takers or sum(_is_to_have(worker, model) for worker in self._fleet.knowing(model)) > len(takers):
                continue
            least = min(len(worker.held) for worker in takers)
            options = [
                option
                for option in self.placement.options(model, asked)
                if len(option.worker.held) < least
                and not option.worker.draining
                and self.placement.is_long_idle(option, now)
            ]
            if options:
                best = min(options, key=self.placement.price)
                load_s = self.loads.seconds(best.worker, model)
                if self.placement.waiting_s(model) / len(takers) > self._config.copy_loads * load_s:
                    self._carry_out(best)

    # ------------------------------------------------------------------ carrying it out

    def _carry_out(self, option: Option) -> None:
        worker, model = option.worker, option.model
        self._demand.since.pop(model, None)
        self._call_off(model)
        for name in option.instead_of:
            self._drop(worker, name)
        worker.wanted[model] = _UNSENT
        self.placement.retried.discard((worker.peer, model))
        self._rewished[worker.peer] = worker
        _log.info("a model is to be loaded", extra=_words(worker, model, option.instead_of))

    def _drop(self, worker: Worker, model: str) -> None:
        del worker.wanted[model]
        worker.draining.discard(model)
        self._leaving.discard((worker.peer, model))
        self._dropped += 1
        self._rewished[worker.peer] = worker

    def _wish(self, worker: Worker) -> None:
        self._number += 1
        self.version += 1
        worker.wished = self._number
        worker.wanted = {name: min(number, self._number) for name, number in worker.wanted.items()}
        self._take(worker)
        self._say(worker)

    def _say(self, worker: Worker) -> None:
        wish = ResidencyWish(self._incarnation, worker.incarnation, worker.wished, tuple(worker.wanted))
        self._outbox.add(TellWorker(worker.peer, wish))

    def _take(self, worker: Worker) -> None:
        if self._fleet.take(worker):
            self._retaken[worker.peer] = worker


def _is_to_have(worker: Worker, model: str) -> bool:
    return model in worker.wanted and model not in worker.draining


def _words(worker: Worker, model: str, instead_of: tuple[str, ...]) -> dict[str, str]:
    return {"worker": worker.name, "model": model, "instead_of": ",".join(instead_of)}
