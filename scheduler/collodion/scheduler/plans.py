"""What one worker is planned to do: the order it was given, and where it is in it.

1. `position` is the boundary up to which the worker is committed: a new order holds from there. It is played forward with time, and put
   right when reports show that the worker is elsewhere.
2. An order is adopted only with a play of it, so every task's `finish` is what the rule gives; where nothing is promised no play is needed.
   `spare_s` is the least time by which a promise of this worker is early. `full`: no filler fits until something changes.
3. The line is promised tasks by their deadline, then the others by rank.
"""

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence

from collodion.scheduler.cost_model import DECODE, ENCODE, STEP, STORE, CostModel
from collodion.scheduler.fleet import Worker
from collodion.scheduler.job import Latent, Rank
from collodion.scheduler.planning import NEVER, Batching, KeyCosts, Play, Position, Stride, Task, best_rows
from collodion.wire.jobs import JobState, LatentId, Stage

TRANSIT_S = 0.002
"""What a message is given to reach its peer: a membership holds from the first boundary after that."""

_STRIDES = 32
_DRIFT_S = 0.003
_DRIFT_STEPS = 0.1  # of an evaluation: how far a worker may be from where it should be before all is predicted anew
_ASTRAY_S = 1.0  # further from the plan, only what the worker says counts
_JITTER_S = 0.0002  # less is not worth moving the position for


class WorkerCosts:
    """What batch keys cost on one worker, from the cost model; made again when that has changed.

    With `full_batches` the step batch is as large as the worker allows, whatever that costs.
    """

    def __init__(self, worker: Worker, model: CostModel, full_batches: bool = False) -> None:
        self._worker = worker
        self._full_batches = full_batches
        self._model = model
        self._version = -1
        self._known: dict[str, KeyCosts | None] = {}

    @property
    def version(self) -> int:
        """Rises when any cost changes materially."""
        return self._model.version

    def of(self, key: str) -> KeyCosts | None:
        """None while an evaluation or a decode of this key was never measured on such a device."""
        if self._version != self._model.version:
            self._version = self._model.version
            self._known.clear()
        if key not in self._known:
            self._known[key] = self._made(key)
        return self._known[key]

    def __getitem__(self, key: str) -> KeyCosts:
        known = self.of(key)
        assert known is not None, "what is planned has costs"
        return known

    def _made(self, key: str) -> KeyCosts | None:
        worker, model, device = self._worker, self._model, self._worker.device_kind
        if worker.cap < 1:
            return None
        most = worker.cap * worker.guided_rows(key)
        step = model.curve(device, STEP, key, most)
        decode = model.curve(device, DECODE, key, worker.decode_batch)
        if step is None or decode is None:
            return None
        encode = model.curve(device, ENCODE, key, worker.encode_batch)
        # A worker that has kept the texts of every prompt that it was given at this size told nothing; prompts know nothing of sizes.
        encode = encode or model.most_at_other_sizes(device, ENCODE, key, worker.encode_batch)
        return KeyCosts(
            step=step,
            encode=encode or (0.0,) * (worker.encode_batch + 1),
            decode=decode,
            store=model.seconds(device, STORE, key, 1) or 0.0,
            margin=model.margin(device, key),
            best_rows=most if self._full_batches else best_rows(step, most),
            most=worker.cap,
        )


class WorkerPlan:
    """One worker's line, and the tasks that are on their way. `makes_way`: nothing new is to come into it until it is empty."""

    def __init__(self, worker: Worker, costs: WorkerCosts, now: float) -> None:
        self.worker = worker
        self.costs = costs
        self.position = Position(now)
        self.tasks: dict[LatentId, Task] = {}
        self._aside: dict[LatentId, Task] = {}
        self.spare_s = NEVER
        self.end = now
        self.full = self.makes_way = False
        self._sent_to_idle = False
        self._drift_s = 0.0
        self._strides: deque[Stride] = deque(maxlen=_STRIDES)
        self._predicted_at = -1

    @property
    def promised(self) -> list[Task]:
        """The promised tasks of the line."""
        return [task for task in self.position.order if task.promised]

    @property
    def keeps_promises(self) -> bool:
        """Whether anything in the line is promised."""
        return any(task.promised for task in (*self.position.order, *self.position.decoding))

    @property
    def stale(self) -> bool:
        """Whether its predictions were made with other costs, or from another position, than are known now."""
        return self._predicted_at != self.costs.version

    def advance(self, now: float) -> None:
        """Commits the worker up to its first boundary after a decision of now takes effect."""
        # Under way, the worker may be a transit ahead of what its reports have told.
        effect = now + TRANSIT_S * (1 if self.position.mark is None else 2)
        # An idle worker begins with the first order that reaches it: a round of that one comes before any other.
        begins = self._sent_to_idle and self.position.mark is None and bool(self.position.order)
        if self.position.time < effect or begins:
            play = self._play(self.position)
            play.until(max(effect, math.nextafter(self.position.time, math.inf)) if begins else effect)
            self.position = play.position()
            self._strides.extend(play.strides)
            self._sent_to_idle = False

    def sent(self) -> None:
        """The worker is told this line."""
        self._sent_to_idle = self.position.mark is None and bool(self.position.order)

    def predicted(
        self,
        order: Sequence[Task],
        only_if_kept: bool = True,
        batching: Batching = Batching.KEPT,
        caps: Mapping[Task, int] | None = None,
    ) -> Play | None:
        """A play of this line from the present position; None if it would break a promise. `caps` go before what is AFFORDED."""
        at = self.position
        play = self._play(Position(at.time, list(order), at.decoding, at.encoded), batching)
        play.caps.update(caps or {})
        return play if play.to_end(only_if_kept) or not only_if_kept else None

    def adopt(self, play: Play, order: Sequence[Task]) -> None:
        """Takes a line that was played from the present position."""
        self.position.order = list(order)
        for task in order:
            self._enter(task)
            task.cap = play.cap_of(task)
        for task, finish in play.finished.items():
            task.finish = finish
        self.spare_s, self.end, self.full = play.spare_s, play.time, False
        self._predicted_at, self._drift_s = self.costs.version, 0.0

    def widen(self) -> bool:
        """Goes back to step batches as large as is best, if no promise needs smaller ones any more; whether anything changed."""
        if not any(task.cap for task in self.position.order):
            return False
        play = self.predicted(self.position.order, batching=Batching.BEST)
        if play is not None:
            self.adopt(play, self.position.order)
        return play is not None

    def refresh(self) -> None:
        """Predicts anew, whatever it says."""
        order = self.position.order
        play = self.predicted(order, only_if_kept=False)
        assert play is not None
        self.adopt(play, order)

    def rescue(self) -> None:
        """Predicts anew; should a promise break, looks for a way to go on in which none does.

        When something leaves a line others move up, and what they then have encoded and decoded earlier can make the first late, though
        there is less to do in all. So the last resort is that nobody joins while the present leader leads.
        """
        self.refresh()
        if self.spare_s >= 0.0 or not self.position.order:
            return
        self.drop_fillers()
        self.refresh()
        for batching in (Batching.BEST, Batching.AFFORDED):
            if self.spare_s < 0.0 and (play := self.predicted(self.position.order, batching=batching)) is not None:
                self.adopt(play, self.position.order)
        if self.spare_s < 0.0 and self.position.order:
            leader = self.position.order[0]
            cap, leader.cap = leader.cap, max(1, min(self._under_way, self.costs[leader.key].cap(leader.rows)))
            if (play := self.predicted(self.position.order)) is not None:
                self.adopt(play, self.position.order)
            else:
                leader.cap = cap

    @property
    def _under_way(self) -> int:
        """How many like the leader have begun."""
        leader = self.position.order[0]
        return sum(task.key == leader.key and task.left < task.latent.job.evaluations for task in self.position.order)

    def add_filler(self, task: Task) -> None:
        """Puts a task into a line in which nothing is promised."""
        self.position.order.append(task)
        self.position.order.sort(key=place)
        self._enter(task)

    def forget(self, latent: Latent) -> bool:
        """The latent is no longer this worker's; whether others' predictions may be other ones without it."""
        self._aside.pop(latent.id, None)
        kept = latent.job.state is JobState.PARKED or any(
            name.job == latent.id.job and name != latent.id for name in self.worker.held
        )
        if not kept:
            self.position.encoded.discard(latent.id.job)  # the worker forgets it with the last of the job's latents
        task = self.tasks.pop(latent.id, None)
        if task is None:
            return False
        latent.planned, self.full = None, False
        position = self.position
        in_line = task in position.order
        position.order = [other for other in position.order if other is not task]
        if latent.job.state is not JobState.PARKED:  # the worker decodes what is set aside all the same
            position.decoding = [other for other in position.decoding if other is not task]
        if in_line:
            self._predicted_at = -1
        return in_line

    def drop_fillers(self, unless_in: Sequence[Task] = ()) -> None:
        """Takes out of the line what is not promised; what has begun stays on the worker, parked."""
        kept = {task.latent.id for task in unless_in}
        gone = [task for task in self.position.order if not task.promised and task.latent.id not in kept]
        for task in gone:
            self._aside[task.latent.id] = self.tasks.pop(task.latent.id)
            task.latent.planned = None
        if gone:
            self.position.order = [task for task in self.position.order if task.latent.planned is not None]

    # -------------------------------------------------------------- what it looks like

    def left(self, latent: Latent) -> int:
        """How many evaluations the latent has left at the position: the last report may be older."""
        task = self.tasks.get(latent.id) or self._aside.get(latent.id)
        return latent.evaluations_left if task is None else task.left

    def line(self) -> list[Task]:
        """All that has steps to go as far as the worker has said, in order: also what is past them by now, by the plan."""
        order = self.position.order
        if len(order) == len(self.tasks):
            return order
        in_order = {task.latent.id for task in order}
        finishing = [task for name, task in self.tasks.items() if name not in in_order and task.latent.runnable]
        return [*finishing, *order]

    def leader(self) -> Task:
        """The first of the line."""
        return self.position.order[0]

    def free(self, costs: KeyCosts) -> int:
        """How many more latents like the leader the step batch has room for."""
        leader = self.leader()
        return costs.cap(leader.rows) - sum(task.key == leader.key for task in self.position.order)

    def has_room(self, key: str) -> bool:
        """Whether a filler of this key may have a chance."""
        order = self.position.order
        if order[0].key != key:
            return all(task.key != key for task in order)
        costs = self.costs.of(key)
        return not self.full and costs is not None and self.free(costs) > 0

    def has_space(self, more: int) -> bool:
        """Whether the worker can hold so many more latents."""
        return len(self.worker.held) + self.coming + more <= self.worker.max_resident

    @property
    def coming(self) -> int:
        """How many latents of the line the worker does not hold yet."""
        return sum(task.latent.worker != self.worker.peer for task in self.tasks.values())

    def is_past_steps(self, latent: Latent) -> bool:
        """Whether the latent has no evaluation left, by the plan."""
        return latent.id in self.tasks and all(task.latent is not latent for task in self.position.order)

    # -------------------------------------------------------------- what the worker says

    def observe(self, stepped: Collection[LatentId], boundary: float) -> None:
        """The worker, in its present line, had stepped these latents as far as they say by `boundary`.

        Moves the position if the plan had it elsewhere.
        """
        for stride in reversed(self._strides):
            latent = stride.latent
            if latent.id in stepped and 0 <= stride.done - latent.evaluations < stride.evaluations:
                late_s = boundary - (stride.time - (stride.done - latent.evaluations) * stride.step)
                late_s = min(late_s, max(0.0, late_s - TRANSIT_S))  # the report may have been on its way for so long
                if self.position.mark is None or abs(late_s) > _ASTRAY_S:
                    self._rebuild(boundary)
                elif abs(late_s) > _JITTER_S:
                    self._move(late_s)
                    self._drift_s += late_s
                if abs(self._drift_s) > _DRIFT_S + _DRIFT_STEPS * stride.step:
                    self._predicted_at = -1
                return
        in_line = {task.latent.id for task in self.position.order}
        behind = any(name in self.tasks and name not in in_line for name in stepped)
        if behind and self.position.time < boundary:
            self._rebuild(boundary)

    def _move(self, late_s: float) -> None:
        self.position.time += late_s
        self.spare_s -= late_s
        self.end += late_s
        self._strides = deque((one._replace(time=one.time + late_s) for one in self._strides), maxlen=_STRIDES)

    def _rebuild(self, now: float) -> None:
        """The worker is not where it was thought to be: all that is known is what it reported."""
        order, decoding, encoded = [], [], set()
        for task in self.tasks.values():
            latent = task.latent
            if latent.stage is Stage.DECODING:
                decoding.append(task)
            elif not latent.ended:
                task.left = latent.evaluations_left
                order.append(task)
            if latent.evaluations:
                encoded.add(task.job)
        order.sort(key=place)
        self.position = Position(now, order, decoding, encoded)
        self._strides.clear()
        self._predicted_at = -1

    def _enter(self, task: Task) -> None:
        self._aside.pop(task.latent.id, None)
        self.tasks[task.latent.id] = task
        task.latent.planned = self.worker.peer

    def cap(self, task: Task) -> int:
        """How many are stepped together while this task leads."""
        return task.cap or self.costs[task.key].cap(task.rows)

    def _play(self, position: Position, batching: Batching = Batching.KEPT) -> Play:
        return Play(position, self.costs, self.worker.decode_batch, self.worker.encode_batch, batching)


def place(task: Task) -> tuple[int, float, Rank]:
    """Where a task stands in a line, the least first."""
    kind = 0 if task.squeezed_in else 1 if task.promised else 2
    return (kind, task.due, (0.0, *task.latent.id)) if task.promised else (kind, 0.0, task.latent.rank)
