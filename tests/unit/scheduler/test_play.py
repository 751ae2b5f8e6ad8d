"""A play ends as the rule does that looks at everything at every boundary, to the last bit."""

import math
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_world import model, spec

from collodion.scheduler.job import Job, Latent, new_job
from collodion.scheduler.planning import NEVER, Batching, KeyCosts, Play, Position, Task

_LONGEST = 80
_MOST_ROWS = 24


def _job(name: str) -> Job:
    return new_job(name, spec(images=1, steps=_LONGEST), 0.0, None, model())


@dataclass
class _Reference:
    """The rule as `Membership` says it, looking at everything at every boundary. `left` are the evaluations to go by task."""

    costs: dict[str, KeyCosts]
    decode_batch: int
    encode_batch: int
    time: float
    order: list[Task]
    decoding: list[Task]
    encoded: set[str]
    left: dict[Task, int] = field(default_factory=dict)
    finished: dict[Task, float] = field(default_factory=dict)

    def round(self) -> None:
        if self.decoding:
            key = self.decoding[0].key
            batch = [task for task in self.decoding if task.key == key][: self.decode_batch]
            self.time += self.costs[key].decode[len(batch)]
            self.finished.update(dict.fromkeys(batch, self.time + self.costs[key].store))
            self.decoding = [task for task in self.decoding if task not in batch]
        if self.order:
            self._step()

    def _step(self) -> None:
        leader = self.order[0]
        costs = self.costs[leader.key]
        cap = leader.cap or costs.cap(leader.rows)
        window = [task for task in self.order if task.key == leader.key][:cap]
        fresh = list(dict.fromkeys(task.job for task in window if task.job not in self.encoded))
        if fresh:
            batch = fresh[: self.encode_batch]
            self.time += costs.encode[len(batch)]
            self.encoded.update(batch)
        window = [task for task in window if task.job in self.encoded]
        # Sums of floats differ by the order of adding: evaluations in a row are one product, as long as nothing changes.
        alone = bool(self.decoding) or len(fresh) > self.encode_batch
        count = 1 if alone else min(self.left[task] for task in window)
        self.time += count * costs.step[sum(task.rows for task in window)]
        for task in window:
            self.left[task] -= count
        self.decoding += [task for task in window if not self.left[task]]
        self.order = [task for task in self.order if self.left[task]]


@st.composite
def _costs(draw: st.DrawFn) -> KeyCosts:
    call, row = draw(st.floats(0.001, 0.05)), draw(st.floats(0.0, 0.02))
    step = (0.0, *(call + row * rows for rows in range(1, 2 * _MOST_ROWS + 1)))
    encode = (0.0, *(draw(st.floats(0.0, 0.02)) * size for size in range(1, 9)))
    decode = (0.0, *(draw(st.floats(0.0, 0.1)) for _ in range(8)))
    return KeyCosts(
        step, encode, decode, draw(st.sampled_from([0.0, 0.01])), 0.03, draw(st.integers(1, _MOST_ROWS)), _MOST_ROWS
    )


@st.composite
def _lines(draw: st.DrawFn) -> tuple[dict[str, KeyCosts], Position]:
    keys = [f"key {index}" for index in range(draw(st.integers(1, 3)))]
    jobs = [
        (f"job {index}", draw(st.sampled_from(keys)), draw(st.integers(1, 2)))
        for index in range(draw(st.integers(1, 8)))
    ]
    steps = st.integers(1, draw(st.sampled_from([4, _LONGEST])))  # few, so that many end together

    def task(promised: bool) -> Task:
        name, key, rows = draw(st.sampled_from(jobs))
        latent: Latent = _job(name).latents[0]
        due = draw(st.floats(0.0, 30.0)) if promised else NEVER
        cap = draw(st.sampled_from([0, 0, 1, 3, 8]))
        return Task(latent, name, key, rows, draw(steps), due, promised, cap=cap)

    order = [task(promised) for promised in draw(st.lists(st.booleans(), max_size=30))]
    decoding = [task(promised) for promised in draw(st.lists(st.booleans(), max_size=4))]
    encoded = {name for name, _, _ in jobs if draw(st.booleans())}
    costs = {key: draw(_costs()) for key in keys}
    return costs, Position(draw(st.floats(0.0, 10.0)), order, decoding, encoded)


def _reference(costs: dict[str, KeyCosts], at: Position, decode_batch: int, encode_batch: int) -> _Reference:
    left = {task: task.left for task in at.order}
    return _Reference(
        costs, decode_batch, encode_batch, at.time, list(at.order), list(at.decoding), set(at.encoded), left
    )


@settings(deadline=None)
@given(_lines(), st.integers(1, 8), st.integers(1, 8))
def test_a_play_ends_when_the_rule_does(
    line: tuple[dict[str, KeyCosts], Position], decode_batch: int, encode_batch: int
) -> None:
    costs, position = line
    reference = _reference(costs, position, decode_batch, encode_batch)
    while reference.order or reference.decoding:
        reference.round()

    play = Play(position, costs, decode_batch, encode_batch)

    assert play.to_end(only_if_kept=False)
    assert (play.time, play.finished, play.encoded) == (reference.time, reference.finished, reference.encoded)
    promised = [task.due + costs[task.key].store for task in play.finished if task.promised]
    assert math.isinf(play.spare_s) != bool(promised)


@settings(deadline=None)
@given(_lines(), st.integers(1, 8), st.integers(1, 8), st.lists(st.floats(0.0, 2.0), max_size=6))
def test_played_in_parts_it_ends_as_in_one_go(
    line: tuple[dict[str, KeyCosts], Position], decode_batch: int, encode_batch: int, parts: list[float]
) -> None:
    costs, position = line
    whole = Play(position, costs, decode_batch, encode_batch)
    whole.to_end(only_if_kept=False)
    finished = dict[Task, float]()

    for seconds in parts:
        part = Play(position, costs, decode_batch, encode_batch)
        part.until(position.time + seconds)
        finished.update(part.finished)
        position = part.position()
        if not position.order and not position.decoding:
            break
    rest = Play(position, costs, decode_batch, encode_batch)
    rest.to_end(only_if_kept=False)
    finished.update(rest.finished)

    assert finished.keys() == whole.finished.keys()
    assert all(math.isclose(finished[task], whole.finished[task], rel_tol=1e-12) for task in finished)


@settings(deadline=None)
@given(_lines(), st.integers(1, 8), st.integers(1, 8), st.sampled_from(Batching))
def test_a_play_is_given_up_exactly_when_a_promise_is_late(
    line: tuple[dict[str, KeyCosts], Position], decode_batch: int, encode_batch: int, batching: Batching
) -> None:
    costs, position = line
    whole = Play(position, costs, decode_batch, encode_batch, batching)
    whole.to_end(only_if_kept=False)

    kept = Play(position, costs, decode_batch, encode_batch, batching).to_end(only_if_kept=True)

    assert kept == (whole.spare_s >= -1e-6)
