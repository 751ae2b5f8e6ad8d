"""A batch of strangers beside a uniform one with as many rows, and beside diffusers' own batch.

Uniform: one sampler, one number of steps, all guided, begun together. Strangers: samplers, numbers of steps and guidance differ, they join
one after the other, and whoever is finished is followed by a newcomer of as many rows. What encoding and beginning newcomers costs is in
neither: it is the same work for both.
"""

import itertools
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from common import spread
from engine_bench.clocks import settle
from engine_bench.diffusers_side import DiffusersSide
from engine_bench.our_side import OurSide
from engine_bench.subjects import Subject

_SAMPLERS = ("euler", "ddim", "dpmpp_2m", "euler_a", "unipc", "dpmpp_3m", "lms", "dpmpp_2m_sde")
"""With histories of different lengths; some draw noise at every step."""


class Crowd:
    """Latents of one pipeline that join and leave. guided, unguided: how many at a time."""

    def __init__(self, side: OurSide, subject: Subject, steps: int, guided: int, unguided: int) -> None:
        self._side = side
        offered = side.pipeline.info.samplers
        self._jobs = {
            scale: _various(subject, [one for one in _SAMPLERS if one in offered], steps, scale)
            for scale in (subject.guidance_scale, 1.0)
        }
        self._scales = [subject.guidance_scale] * guided + [1.0] * unguided
        self._waiting: dict[float, list[Any]] = {scale: [] for scale in self._jobs}
        for scale in self._scales:
            # The shortest take two thirds of the steps: two newcomers for each place are enough, and one to join.
            self._waiting[scale] += side.begin([next(self._jobs[scale]) for _ in range(3)])
        self._present: list[tuple[float, Any]] = []

    def gather(self) -> None:
        """One joins before each of the first steps."""
        for scale in self._scales:
            self._join(scale)
            self.run(1)

    def run(self, steps: int) -> None:
        """So many model calls of all who are present."""
        self._side.run(self._now, steps)

    def _now(self) -> list[Any]:
        """Those who are present, whoever is finished having made room for a newcomer."""
        for number, (scale, state) in reversed(list(enumerate(self._present))):
            if state.trajectory.finished:
                del self._present[number]
                self._join(scale)
        return [state for _, state in self._present]

    def _join(self, scale: float) -> None:
        self._present.append((scale, self._waiting[scale].pop()))


def _various(subject: Subject, samplers: Sequence[str], steps: int, scale: float) -> Iterator[Any]:
    """Jobs without end."""
    for number in itertools.count():
        various = (max(2, steps * 2 // 3), steps, steps * 5 // 3)[number % 3]
        yield subject.parameters(
            number, various, sampler=samplers[number % len(samplers)], guidance_scale=scale, seed=number
        )


def shares(batch: int, guided_rows: int) -> tuple[int, int]:
    """How many strangers with and without guidance have as many rows as a uniform batch of guided ones."""
    if guided_rows == 1:
        return batch, 0
    unguided = 2 * (batch // 4) or 2 * (batch // 2)
    return batch - unguided // 2, unguided


def measure(
    side: OurSide, other: DiffusersSide | None, subject: Subject, batch: int, steps: int, rounds: int
) -> dict[str, Any]:
    """Seconds a model call of each, and the medians of the rounds' ratios. Raises MemoryError, NotFinite."""
    guided, unguided = shares(batch, side.pipeline.info.guided_rows)
    turns: dict[str, Callable[[], float]] = {
        "uniform": lambda: _uniform(side, subject, batch, steps),
        "strangers": lambda: _strangers(side, subject, steps, guided, unguided),
    }
    if other is not None:
        turns["diffusers"] = lambda: statistics.fmean(other.draw(subject.jobs(batch, steps)).step_s)
    samples: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        order = list(turns)
        random.shuffle(order)
        for name in order:
            samples[name].append(turns[name]())
    ratios = {
        f"strangers_over_{name}": spread([mine / his for mine, his in zip(samples["strangers"], theirs, strict=True)])
        for name, theirs in samples.items()
        if name != "strangers"
    }
    rows = 2 * guided + unguided if side.pipeline.info.guided_rows > 1 else batch
    calls = {f"{name}_s": spread(each) for name, each in samples.items()}
    return {"batch": batch, "latents": guided + unguided, "rows": rows, "steps": steps, **calls, **ratios}


def _uniform(side: OurSide, subject: Subject, batch: int, steps: int) -> float:
    states = side.begin(subject.jobs(batch, steps))
    settle(side.place)
    side.run(lambda: states, 1)
    return _timed(side, steps - 1, lambda count: side.run(lambda: states, count))


def _strangers(side: OurSide, subject: Subject, steps: int, guided: int, unguided: int) -> float:
    crowd = Crowd(side, subject, steps, guided, unguided)
    crowd.gather()
    return _timed(side, steps - 1, crowd.run)


def _timed(side: OurSide, steps: int, run: Callable[[int], object]) -> float:
    settle(side.place)
    began = side.clock()
    run(steps)
    settle(side.place)
    return (side.clock() - began) / steps
