"""The rule by which a worker goes on by itself, run forward: where it will be, and when each latent will be finished.

1. The rule is that of `Membership` (wire/to_worker.py): at each boundary decode, find the window, encode, step. What dispatches is what
   predicts: the order sent to a worker is the order played here.
2. While nothing changes in the window its evaluations are one stride, so a play costs by the latents that finish, not by evaluations.
3. Times are Unix seconds. Finished means stored: decoded, and the time that storing takes.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import NamedTuple, Protocol

from collodion.scheduler.job import Latent
from collodion.wire.jobs import LatentId

NEVER = math.inf
_GENTLE = 1.0
_TOLERANCE_S = 1e-6  # of sums of floats; a promise is not refused for it


@dataclass(slots=True, eq=False)
class Task:
    """What a plan knows of a latent: the evaluations it has left, and by when it is wanted (NEVER: no deadline).

    `rows` is its share of a model call; `due` is its deadline less the time that storing takes; `promised` whether that is to be
    kept; `squeezed_in` if it goes before all that is promised, which can spare it. `cap` is how many are stepped together while it
    leads (0: as many as is best for throughput). `finish` is when the last play that was adopted had it finished.
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

    `best_rows` is how many rows a step batch needs for (nearly) the most rows a second; `most` is how many latents it may have;
    `margin` is the relative error that predictions carry.
    """

    step: tuple[float, ...]
    encode: tuple[float, ...]
    decode: tuple[float, ...]
    store: float
    margin: float
    best_rows: int
    most: int

    def cap(self, rows: int) -> int:
        """How many latents of so many rows the step batch has at most."""
        return max(1, min(self.most, self.best_rows // rows))

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

    `mark` tells the boundary from others, as `Membership.after` does: a latent that was stepped last and its evaluations, or one that
    was decoded; None where nothing was.
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


class _Window:
    """The first of one key's tasks in a line: those that are stepped together when it leads.

    `running` is a heap of (when done, place in the line). When is counted in this key's own evaluations, `clock` of which were made; so a
    stride changes one number, however many are in the window. `fresh` are the places of those that have to be encoded first. Tasks
    from place `next` on were not looked at yet. `rows` are those of the running, `size` how many they are with the fresh ones.
    """

    __slots__ = ("clock", "costs", "fresh", "key", "next", "rows", "running", "size")

    def __init__(self, key: str, costs: KeyCosts) -> None:
        self.key = key
        self.costs = costs
        self.clock = 0
        self.running: list[tuple[int, int]] = []
        self.fresh: list[int] = []
        self.next = 0
        self.rows = 0
        self.size = 0


class Play:
    """One run of the rule from a position, which it leaves as it is.

    `mark` and `strides` are those of `until`. `finished` says when, of all that was decoded; `spare_s` by how much the promise
    that is tightest is early, as far as it was played.
    """

    def __init__(
        self, position: Position, costs: Costs, decode_batch: int, encode_batch: int, batching: Batching = Batching.KEPT
    ) -> None:
        self.time = self._began = position.time
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
        self._kept, self._by_due = batching is Batching.KEPT, batching is Batching.AFFORDED
        self._line = list(position.order)
        self._gone = bytearray(len(self._line))  # by place: whether it is past its steps
        self._first = 0  # the leader's place; the line's length once there is none
        self._left: dict[int, int] = {}  # by place, of those that had to leave a window again
        self._windows: dict[str, _Window] = {}

    def to_end(self, only_if_kept: bool) -> bool:
        """Plays until all is finished. With `only_if_kept` it stops and says False as soon as a promise would be broken."""
        least = -_TOLERANCE_S if only_if_kept else -NEVER
        length = len(self._line)
        while self._first < length or self.decoding:
            if self.decoding:
                self._decode()
                if self.spare_s < least:
                    return False
            if self._first < length:
                self._stride(NEVER)
        return True

    def until(self, time: float) -> None:
        """Plays to the first boundary at or after `time`; with nothing to do, to `time` itself."""
        length = len(self._line)
        while self.time < time and (self._first < length or self.decoding):
            decoded = self.decoding[0].latent if self.decoding else None
            if decoded is not None:
                self._decode()  # and on in the same round: a newer order is not looked at before its end
            if self._first < length:
                self._stride(time)
            elif decoded is not None:
                self.mark = decoded.id, decoded.job.evaluations + 1
        if self.time < time:
            self.time, self.mark = time, None

    def cap_of(self, task: Task) -> int:
        """The cap that the task was played with (see `Task.cap`)."""
        return task.cap if self._kept else self.caps.get(task, 0)

    def position(self) -> Position:
        """Where it stands now. The tasks' own `left` are set to what is left here."""
        line = self._line
        for place, left in self._left.items():
            line[place].left = left
        for window in self._windows.values():
            for done, place in window.running:
                line[place].left = done - window.clock
        order = [task for task, gone in zip(line, self._gone, strict=True) if not gone]
        return Position(self.time, order, self.decoding, self.encoded, self.mark)

    # -------------------------------------------------------------- a round

    def _decode(self) -> None:
        decoding, self.decoding = self.decoding, []
        batch, key = decoding, decoding[0].key
        if len(decoding) > 1:
            batch = [task for task in decoding if task.key == key][: self._decode_batch]
            if len(batch) < len(decoding):
                taken = set(batch)
                self.decoding = [task for task in decoding if task not in taken]
        costs = (self._windows.get(key) or self._open(key)).costs
        self.time = time = self.time + costs.decode[len(batch)]
        self.finished.update(dict.fromkeys(batch, time + costs.store))
        if (due := min([task.due for task in batch if task.promised], default=NEVER)) < NEVER:
            self.spare_s = min(self.spare_s, due - (self._began + (time - self._began) * (1 + costs.margin)))

    def _stride(self, until: float) -> None:
        leader = self._line[self._first]
        window = self._windows.get(leader.key) or self._open(leader.key)
        costs = window.costs
        said = leader.cap if self._kept else self._cap(leader, window) if self._by_due else 0
        cap = said or costs.cap(leader.rows)
        if window.size != cap:
            self._resize(window, cap)
        more = self._encode(window) if window.fresh else False
        step = costs.step[window.rows]
        ends = window.running[0][0]
        count = 1 if more or self.decoding else ends - window.clock
        if until < NEVER:
            count = min(count, max(1, math.ceil((until - self.time) / step - 1e-9)))
        self.time += count * step
        window.clock += count
        if until < NEVER:
            self._note(window, count, step)
        if window.clock == ends:
            self._retire(window)

    def _note(self, window: _Window, count: int, step: float) -> None:
        place, end = min((place, end) for end, place in window.running)
        first = self._line[place].latent
        done = first.job.evaluations - (end - window.clock)
        self.mark = first.id, done
        self.strides.append(Stride(first, done, self.time, count, step))

    def _retire(self, window: _Window) -> None:
        """Those that are past their steps wait to be decoded."""
        running, clock, gone, line = window.running, window.clock, self._gone, self._line
        while running and running[0][0] == clock:
            place = heappop(running)[1]
            gone[place] = 1
            task = line[place]
            window.rows -= task.rows
            window.size -= 1
            self.decoding.append(task)
        first = gone.find(0, self._first)
        self._first = first if first >= 0 else len(line)

    def _encode(self, window: _Window) -> bool:
        """Encodes one batch of the window's jobs; whether some are left to the next boundary."""
        line, encoded, fresh = self._line, self.encoded, window.fresh
        if len(fresh) == 1 and (task := line[fresh[0]]).job not in encoded:
            self.time += window.costs.encode[1]
            encoded.add(task.job)
            self._start(window, fresh.pop(), task)
            return False
        jobs = dict.fromkeys(job for place in fresh if (job := line[place].job) not in encoded)
        batch = list(jobs)[: self._encode_batch]
        self.time += window.costs.encode[len(batch)]
        encoded.update(batch)
        window.fresh = [place for place in fresh if line[place].job not in encoded]
        for place in fresh:
            if line[place].job in encoded:
                self._start(window, place, line[place])
        return len(jobs) > len(batch)

    def _open(self, key: str) -> _Window:
        window = self._windows[key] = _Window(key, self._costs[key])
        return window

    def _resize(self, window: _Window, cap: int) -> None:
        """The window is the first `cap` of the key's tasks; fewer if there are no more."""
        if window.size > cap:
            self._shrink(window, cap)
        line, gone, encoded, key = self._line, self._gone, self.encoded, window.key
        size, place, length = window.size, window.next, len(line)
        while size < cap and place < length:
            task = line[place]
            if task.key == key and not gone[place]:
                size += 1
                if task.job in encoded:
                    self._start(window, place, task)
                else:
                    window.fresh.append(place)
            place += 1
        window.next, window.size = place, size

    def _start(self, window: _Window, place: int, task: Task) -> None:
        heappush(window.running, (window.clock + self._left.pop(place, task.left), place))
        window.rows += task.rows

    def _shrink(self, window: _Window, cap: int) -> None:
        window.next = bound = sorted([*window.fresh, *(place for _, place in window.running)])[cap]
        window.fresh = [place for place in window.fresh if place < bound]
        for end, place in window.running:
            if place >= bound:
                self._left[place] = end - window.clock
                window.rows -= self._line[place].rows
        window.running = [entry for entry in window.running if entry[1] < bound]
        heapify(window.running)
        window.size = cap

    def _cap(self, leader: Task, window: _Window) -> int:
        if leader.due == NEVER:
            return 0
        if leader not in self.caps:
            self.caps[leader] = self._afforded(leader, window)
        return self.caps[leader]

    def _afforded(self, leader: Task, window: _Window) -> int:
        costs = window.costs
        spare = leader.due - self.time - costs.decode[1]
        spare -= 0.0 if leader.job in self.encoded else costs.encode[1]
        left = next((end - window.clock for end, place in window.running if place == self._first), None)
        left = self._left.get(self._first, leader.left) if left is None else left
        best = costs.cap(leader.rows)
        line, gone = self._line, self._gone
        alike = (place for place in range(self._first, len(line)) if line[place].key == leader.key and not gone[place])
        most = sum(1 for _ in islice(alike, best))
        fits = (cap for cap in range(most, 1, -1) if left * costs.step[cap * leader.rows] <= spare)
        cap = next(fits, 1)
        return cap if cap < most else best
