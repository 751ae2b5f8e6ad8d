"""The worker's boundaries beside the rule of `Membership`, written down once more: whatever is wished for, and whenever."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collodion.scheduler.transitions import LATENT_TRANSITIONS
from collodion.wire.jobs import LatentId, Stage
from collodion.worker.config import WorkerConfig
from collodion.worker.families.simulated import Simulated
from collodion.worker.preparing import prepare

FREE = {"simulated_step_ms": ("0",), "simulated_encode_ms": ("0",), "simulated_decode_ms": ("0",)}
MAX_BATCH, ENCODE_BATCH, DECODE_BATCH = 4, 2, 2
JOBS = {
    "a": {"steps": 3, "images": 2},
    "b": {"steps": 1, "images": 3},
    "c": {"steps": 2, "sampler": "heun"},
    "d": {"steps": 4, "width": 96},
    "e": {"steps": 1, "width": 96, "images": 2},
    "refused": {"sampler": "unheard of"},
}
EVALUATIONS = {"a": 3, "b": 1, "c": 3, "d": 4, "e": 1, "refused": 1}
LATENTS = [LatentId(job, image) for job, fields in JOBS.items() for image in range(fields.get("images", 1))]


class Wish(NamedTuple):
    """What a membership says."""

    running: Sequence[LatentId] = ()
    caps: Sequence[int] = ()
    parked: Sequence[LatentId] = ()
    after: tuple[LatentId, int] | None = None


@dataclass
class Rule:
    """The reference: what a worker does, as whoever predicts it would compute it."""

    wish: Wish = Wish()
    coming: list[Wish] = field(default_factory=list)
    left: dict[LatentId, int] = field(default_factory=dict)
    encoded: dict[str, bool] = field(default_factory=dict)
    finished: list[LatentId] = field(default_factory=list)

    def reached(self, after):
        if after is None or after[0] not in self.left:
            return True
        if not self.left[after[0]] and after[1] > EVALUATIONS[after[0].job]:
            return after[0] not in self.finished
        return EVALUATIONS[after[0].job] - self.left[after[0]] >= after[1]

    def apply(self, wish):
        self.wish, held = wish, [*wish.running, *wish.parked]
        self.left = {latent: self.left.get(latent, EVALUATIONS[latent.job]) for latent in held}
        self.encoded = {latent.job: self.encoded.get(latent.job, False) for latent in held}
        self.finished = [latent for latent in self.finished if latent in self.left]

    def boundary(self, unprepared):
        """What is decoded, encoded and stepped, and the window."""
        while self.coming and self.reached(self.coming[0].after):
            self.apply(self.coming.pop(0))
        running, caps = self.wish.running, self.wish.caps
        decode = [latent for latent in self.finished if key(latent) == key(self.finished[0])][:DECODE_BATCH]
        self.finished = [latent for latent in self.finished if latent not in decode]
        to_go = [one for one in running if self.left[one] and (one.job != "refused" or one.job in unprepared)]
        cap = caps[running.index(to_go[0])] if to_go and caps else MAX_BATCH
        window = [latent for latent in to_go if key(latent) == key(to_go[0])][: min(cap, MAX_BATCH)]
        jobs = dict.fromkeys(latent.job for latent in window if latent.job not in unprepared)
        encode = [job for job in jobs if not self.encoded[job]][:ENCODE_BATCH]
        self.encoded |= dict.fromkeys(encode, True)
        step = [latent for latent in window if self.encoded[latent.job]]
        self.left |= {latent: self.left[latent] - 1 for latent in step}
        self.finished += [latent for latent in step if not self.left[latent]]
        return (decode, encode, step), window


def key(latent):
    return JOBS[latent.job].get("width", 64)


class Witness:
    """A simulated model that notes what the device is given; a latent is known by its prompt, which is its job's, and its seed."""

    def __init__(self):
        self._pipeline = Simulated("simulated", WorkerConfig(**FREE))
        self.given: dict[str, list[Any]] = {"decode": [], "encode": [], "step": []}

    def __getattr__(self, name):
        return getattr(self._pipeline, name)

    def encode(self, plans):
        self.given["encode"] = [plan.parameters.prompt for plan in plans]
        return self._pipeline.encode(plans)

    def step(self, states):
        self.given["step"] = [LatentId(state.plan.parameters.prompt, state.seed) for state in states]
        return self._pipeline.step(states)

    def decode(self, states):
        self.given["decode"] = [LatentId(state.plan.parameters.prompt, state.seed) for state in states]
        return self._pipeline.decode(states)

    def take(self):
        """What was given since the last time."""
        given = tuple(self.given.values())
        self.given = {lane: [] for lane in self.given}
        return given


class Comparison:
    """Engine and reference side by side."""

    def __init__(self, drive):
        self.rule, self.witness = Rule(), Witness()
        self.pending, self.ready = {}, set()
        bounds = {"max_batch": MAX_BATCH, "encode_batch": ENCODE_BATCH, "decode_batch": DECODE_BATCH}
        self.driver = drive(self.witness, preparing=self.prepare, **bounds)
        for job, fields in JOBS.items():
            self.driver.order(job, **{"model": "simulated", "prompt": job, "seed": 0, **fields})
        self.stages = {}

    def prepare(self, job):
        self.pending.pop(job.job_id, None)
        if job.job_id in self.ready:
            return prepare(job)
        self.pending[job.job_id] = job
        return job

    def hear(self, wish, ready):
        """A membership arrives, and what is `ready` was prepared."""
        self.ready = ready
        for job in ready & self.pending.keys():
            prepare(self.pending.pop(job))
        self.driver.wish(wish.running, wish.parked, wish.caps, wish.after)
        self.rule.coming = [*(self.rule.coming if wish.after else ()), wish]

    def boundary(self):
        busy = self.driver.engine.round()
        expected, window = self.rule.boundary(self.pending.keys())
        assert self.witness.take() == expected
        self.stepped = expected[2]
        if not any(expected):
            hurried = self.rule.coming and not window
            assert busy == bool(hurried)
            if hurried:  # with nobody to bring forward no boundary would ever come
                self.rule.apply(self.rule.coming.pop(0))
                return
        for latent in self.driver.outbox.held.latents:
            self.check_stage(latent, latent.id in window, latent.id in self.rule.wish.running)

    def check_stage(self, latent, in_window, in_line):
        """What was told of it so far leads on to what is told now, and that is what its place asks for."""
        before = self.stages.get(latent, Stage.WAITING)
        self.stages[latent] = latent.stage
        assert latent.stage is before or (before, latent.stage) in LATENT_TRANSITIONS
        assert before is Stage.WAITING or latent.stage is not Stage.WAITING
        if self.rule.left[latent.id] and latent.stage is not Stage.STOPPED:
            begun = latent.evaluations > 0
            assert latent.evaluations == EVALUATIONS[latent.id.job] - self.rule.left[latent.id]
            assert (latent.stage in (Stage.ENCODING, Stage.DENOISING)) == in_window
            assert (latent.stage is Stage.PARKED) >= (begun and not in_window)
            assert in_line or latent.stage is Stage.PARKED


@st.composite
def wishes(draw):
    """A membership, whose preparation is over by then, and how many boundaries pass before the next one."""
    running = draw(st.lists(st.sampled_from(LATENTS), unique=True))
    caps = draw(st.just([]) | st.lists(st.integers(0, 6), min_size=len(running), max_size=len(running)))
    parked = draw(st.lists(st.sampled_from(LATENTS), unique=True))
    named = st.sampled_from([latent for latent in LATENTS if latent.job != "refused"])
    after = draw(st.none() | st.tuples(named, st.integers(0, 4)))
    ready = draw(st.sets(st.sampled_from(sorted(JOBS))) | st.just(set(JOBS)))
    wish = Wish(running, caps, [latent for latent in parked if latent not in running], after)
    return wish, ready, draw(st.integers(0, 5))


quick = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(quick, max_examples=300)
@given(schedule=st.lists(wishes(), min_size=1, max_size=8))
def test_every_boundary_is_that_of_the_rule(schedule, drive):
    comparison = Comparison(drive)
    for wish, ready, boundaries in schedule:
        comparison.hear(wish, ready)
        for _ in range(boundaries):
            comparison.boundary()


@pytest.fixture
def comparison(drive):
    return Comparison(drive)


def test_the_next_in_line_joins_at_the_very_next_boundary(comparison):
    running = [LatentId("b", 0), LatentId("a", 0), LatentId("a", 1), LatentId("d", 0)]
    comparison.hear(Wish(running, [2, 2, 1, 1]), set(JOBS))
    for expected in (running[:2], running[1:3], running[1:3], running[2:3], running[3:]):  # caps 2, 2, 2, 1, 1
        comparison.boundary()
        assert comparison.stepped == expected


def test_a_wish_that_names_its_boundary_waits_for_it_and_keeps_those_before_it(comparison):
    first, second, third = LatentId("a", 0), LatentId("d", 0), LatentId("c", 0)
    comparison.hear(Wish([first], parked=[second]), set(JOBS))
    comparison.hear(Wish([second], parked=[first], after=(first, 2)), set(JOBS))
    comparison.hear(Wish([third], parked=[first, second], after=(second, 1)), set(JOBS))
    for expected in (first, first, second, third, third):
        comparison.boundary()
        assert comparison.stepped == [expected]


def test_a_wish_that_holds_at_once_replaces_those_that_wait(comparison):
    first, second, third = LatentId("a", 0), LatentId("d", 0), LatentId("c", 0)
    comparison.hear(Wish([first]), set(JOBS))
    comparison.hear(Wish([second, first], after=(first, 2)), set(JOBS))
    comparison.boundary()
    comparison.hear(Wish([third, first]), set(JOBS))
    for _ in range(2):
        comparison.boundary()
        assert comparison.stepped == [third, first]


def test_the_oldest_of_too_many_waiting_wishes_give_way(comparison):
    first, others = LatentId("d", 0), [latent for latent in LATENTS if latent.job in "abc"]
    comparison.hear(Wish([first]), set(JOBS))
    comparison.boundary()
    for number in range(100):
        comparison.driver.wish([first, others[number % len(others)]], after=(first, 3))
    assert len(comparison.driver.inbox.wishes) == 16


@pytest.mark.parametrize("caps", [(), (1,), (1, 1, 1, 1)])
def test_caps_that_are_not_one_for_each_are_none(caps, comparison):
    comparison.hear(Wish([LatentId("a", 0), LatentId("a", 1)]), set(JOBS))
    comparison.driver.wish([LatentId("a", 0), LatentId("a", 1)], caps=caps)
    comparison.boundary()


def test_a_cap_stays_with_its_latent_though_one_before_it_is_unknown(comparison):
    running = [LatentId("a", 0), LatentId("a", 1), LatentId("c", 0)]
    comparison.hear(Wish(running, [1, 3, 3]), set(JOBS))
    comparison.driver.orders["stranger"] = comparison.driver.orders["a"]  # an order under another name
    comparison.driver.wish([LatentId("stranger", 0), *running], caps=[9, 1, 3, 3])
    comparison.boundary()


def test_somebody_named_twice_is_stepped_once(comparison):
    running = [LatentId("a", 0), LatentId("a", 1)]
    comparison.hear(Wish(running), set(JOBS))
    comparison.driver.wish([*running, *running])
    comparison.boundary()
