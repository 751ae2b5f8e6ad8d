"""The rule by which a worker goes on by itself, run forward: where it will be, and when each latent will be finished.

1. The rule is that of `Membership` (wire/to_worker.py): at each boundary decode, find the window, encode, step. What dispatches is what
   predicts: the order sent to a worker is the order played here.
2. While nothing changes in the window its evaluations are one stride, so a play costs by the latents that finish, not by evaluations.
3. Times are Unix seconds. Finished means stored: decoded, and the time that storing takes.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple, Protocol

from collodion.scheduler.job import Latent
from collodion.wire.jobs import LatentId

NEVER = math.inf
_GENTLE = 1.0
_TOLERANCE_S = 1e-6  # of sums of floats; a promise is not refused for it


@dataclass(slots=True, eq=False)
class Task:
    """What a plan knows of a latent: the evaluations it has left, and by when it is wanted (NEVER: no deadline).

    `rows` is its share of a model call; `due` is its deadline less the time that storing takes; `promised` whether that is
    to be kept; `squeezed_in` if it goes before all that is promised, which can spare it. `cap` is
    how many are stepped together while it leads (0: as many as is best for throughput). `finish` is when the last play that was adopted had it finished.
    """

    latent: Latent
    job: str
    key: str
    rows: int
    left: int
    due: float
    promised: bool = False
    squeezed_in: bool = False
    cap: int = 0
    finish: float = NEVER


@dataclass(frozen=True, slots=True)
class KeyCosts:
    """What a batch key costs on one worker, in seconds: `step` by rows, `encode` by jobs, `decode` by latents, entry 0 being 0.

    `best_rows` is how many rows a step batch needs for (nearly) the most rows a second; `margin` is the relative error that
    predictions carry.
    """

    step: tuple[float, ...]
    encode: tuple[float, ...]
    decode: tuple[float, ...]
    store: float
    margin: float
    best_rows: int

    def cap(self, rows: int) -> int:
        """How many latents of so many rows the step batch has at most."""
        return max(1, self.best_rows // rows)

    def gentle(self, rows: int) -> int:
        """How many latents of so many rows can be stepped in little more than the time that one takes."""
        sizes = range(2, self.cap(rows) + 1)
        return 1 + sum(
            1 for _ in itertools.takewhile(lambda size: self.step[size * rows] <= _GENTLE * self.step[rows], sizes)
        )

    def alone_s(self, evaluations: int, rows: int) -> float:
        """What a job of one image takes on an empty worker."""
        return self.encode[1] + evaluations * self.step[rows] + self.decode[1] + self.store

    def least_s(self, evaluations: int, rows: int) -> float:
        """The device time that a latent takes in the best of company."""
        step = self.step[self.best_rows] / self.best_rows * rows
        return evaluations * step + min(cost / size for size, cost in enumerate(self.decode[1:], 1))


def best_rows(step: Sequence[float], most: int) -> int:
    """The least number of rows, up to `most`, within half a per cent of the most rows a second."""
    rates = [rows / step[rows] if step[rows] > 0 else math.inf for rows in range(1, most + 1)]
    enough = max(rates) * 0.995
    return next(rows for rows, rate in enumerate(rates, 1) if rate >= enough)


class Stride(NamedTuple):
    """Evaluations of one window, one after the other: the first of it, how many it then had done, when, and what each took (seconds)."""

    latent: Latent
    done: int
    time: float
    evaluations: int
    step: float


@dataclass(slots=True)
class Position:
    """Where a worker is at a boundary: its time, who is wanted next in order, who waits to be decoded, which jobs are encoded.

    `mark` tells the boundary from others: a latent that was stepped last, and its evaluations; None where nothing was.
    """

    time: float
    order: list[Task] = field(default_factory=list)
    decoding: list[Task] = field(default_factory=list)
    encoded: set[str] = field(default_factory=set)
    mark: tuple[LatentId, int] | None = None


class Batching(Enum):
    """How many are stepped together while a task leads."""

    BEST = auto()
    """As many as give the most evaluations a second."""
    AFFORDED = auto()
    """The most that let the leader keep its deadline, were the batch to stay so large; BEST where it has none."""
    KEPT = auto()
    """As was said of the task before."""


class Costs(Protocol):
    """What is known of batch keys."""

    def __getitem__(self, key: str) -> KeyCosts:
        """The costs of a key that has some."""


class Play:
    """One run of the rule from a position, which it leaves as it is. `left` are the evaluations that each of `order` has left."""

    def __init__(
        self, position: Position, costs: Costs, decode_batch: int, encode_batch: int, batching: Batching = Batching.KEPT
    ) -> None:
        self.time = position.time
        self.order = list(position.order)
        self.left = [task.left for task in self.order]
        self.decoding = list(position.decoding)
        self.encoded = set(position.encoded)
        self.finished: dict[Task, float] = {}
        self.spare_s = NEVER
        self.mark = position.mark
        self.caps: dict[Task, int] = {}
        self.strides: list[Stride] = []
        self._costs = costs
        self._decode_batch = decode_batch
        self._encode_batch = encode_batch
        self._batching = batching

    def to_end(self, only_if_kept: bool) -> bool:
        """Plays until all is finished. With `only_if_kept` it stops and says False as soon as a promise would be broken."""
        start = self.time
        while self.order or self.decoding:
            for task in self._decode():
                if task.promised:
                    finish = start + (self.time - start) * (1 + self._costs[task.key].margin)
                    self.spare_s = min(self.spare_s, task.due - finish)
                    if only_if_kept and self.spare_s < -_TOLERANCE_S:
                        return False
            if self.order:
                self._stride(NEVER)
        return True

    def until(self, time: float) -> None:
        """Plays to the first boundary at or after `time`; with nothing to do, to `time` itself."""
        while self.time < time and (self.order or self.decoding):
            self._decode()  # and on in the same round: a newer order is not looked at before its end
            if self.order:
                self._stride(time)
        if self.time < time:
            self.time, self.mark = time, None

    def cap_of(self, task: Task) -> int:
        """The cap that the task was played with (see `Task.cap`)."""
        return task.cap if self._batching is Batching.KEPT else self.caps.get(task, 0)

    def position(self) -> Position:
        """Where it stands now. The tasks' own `left` are set to what is left here."""
        for task, left in zip(self.order, self.left, strict=True):
            task.left = left
        return Position(self.time, self.order, self.decoding, self.encoded, self.mark)

    def _decode(self) -> list[Task]:
        if not self.decoding:
            return []
        key = self.decoding[0].key
        batch = [task for task in self.decoding if task.key == key][: self._decode_batch]
        costs = self._costs[key]
        self.time += costs.decode[len(batch)]
        for task in batch:
            self.finished[task] = self.time + costs.store
        self.decoding = [task for task in self.decoding if task not in self.finished]
        return batch

    def _stride(self, until: float) -> None:
        order, left = self.order, self.left
        leader = order[0]
        costs = self._costs[leader.key]
        cap = self._cap(leader, costs) or costs.cap(leader.rows)
        window: list[int] = []
        rows = 0
        for index, task in enumerate(order):
            if task.key == leader.key:
                window.append(index)
                rows += task.rows
                if len(window) == cap:
                    break
        if more := self._encode(window, costs):
            window = [index for index in window if order[index].job in self.encoded]
            rows = sum(order[index].rows for index in window)
            if not window:
                return
        step = costs.step[rows]
        count = min([left[index] for index in window])
        if self.decoding or more:
            count = 1
        elif until < NEVER:
            count = min(count, max(1, math.ceil((until - self.time) / step - 1e-9)))
        self.time += count * step
        first = order[window[0]].latent
        done = first.job.evaluations - left[window[0]] + count
        self.mark = first.id, done
        if until < NEVER:
            self.strides.append(Stride(first, done, self.time, count, step))
        some_done = False
        for index in window:
            left[index] -= count
            some_done = some_done or not left[index]
        if some_done:
            self.decoding += [order[index] for index in window if not left[index]]
            kept = [index for index in range(len(order)) if left[index]]
            self.order = [order[index] for index in kept]
            self.left = [left[index] for index in kept]

    def _cap(self, leader: Task, costs: KeyCosts) -> int:
        if self._batching is Batching.KEPT:
            return leader.cap
        if self._batching is Batching.BEST or leader.due == NEVER:
            return 0
        if leader not in self.caps:
            self.caps[leader] = self._afforded(leader, costs)
        return self.caps[leader]

    def _afforded(self, leader: Task, costs: KeyCosts) -> int:
        spare = leader.due - self.time - costs.decode[1]
        spare -= 0.0 if leader.job in self.encoded else costs.encode[1]
        best = costs.cap(leader.rows)
        most = min(best, sum(task.key == leader.key for task in self.order))
        fits = (cap for cap in range(most, 1, -1) if self.left[0] * costs.step[cap * leader.rows] <= spare)
        cap = next(fits, 1)
        return cap if cap < most else best

    def _encode(self, window: Iterable[int], costs: KeyCosts) -> bool:
        """Encodes one batch of the window's jobs; whether some are left to the next boundary."""
        fresh = dict.fromkeys(self.order[index].job for index in window)
        fresh = {job: None for job in fresh if job not in self.encoded}
        if not fresh:
            return False
        batch = list(fresh)[: self._encode_batch]
        self.time += costs.encode[len(batch)]
        self.encoded.update(batch)
        return len(fresh) > len(batch)
