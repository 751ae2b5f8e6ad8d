"""The scheduler's parts by themselves: ids, tables, backlog, settings."""

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduler_world import START, model, spec

from collodion.process.config import ConfigError
from collodion.scheduler.backlog import Backlog
from collodion.scheduler.config import SchedulerConfig
from collodion.scheduler.ids import JobIds
from collodion.scheduler.job import Latent, new_job
from collodion.scheduler.journal import MemoryStore
from collodion.scheduler.transitions import (
    JOB_ENDS,
    JOB_TRANSITIONS,
    LATENT_ENDS,
    LATENT_TRANSITIONS,
    IllegalTransition,
    check,
    diagram,
)
from collodion.scheduler.views import standing
from collodion.wire.jobs import JobState, Stage


@given(times=st.lists(st.floats(0, 4e9), min_size=1, max_size=50))
def test_job_ids_ascend_whatever_the_clock_does(times: list[float]) -> None:
    new_id = JobIds(random.Random(1).getrandbits)
    ids = [new_id(now) for now in times]
    assert ids == sorted(set(ids))
    assert {len(job_id) for job_id in ids} == {26}


def test_job_ids_tell_their_time() -> None:
    new_id = JobIds(random.Random(1).getrandbits)
    assert new_id(1469918176.385)[:10] == "01ARYZ6S41"  # the example of github.com/ulid/spec


@pytest.mark.parametrize(
    ("states", "ends", "table"), [(JobState, JOB_ENDS, JOB_TRANSITIONS), (Stage, LATENT_ENDS, LATENT_TRANSITIONS)]
)
def test_every_state_leads_to_an_end_and_ends_lead_nowhere(states: Any, ends: Any, table: Any) -> None:
    for state in states:
        onward = {after for before, after in table if before is state}
        assert bool(onward) != (state in ends)
        assert state in ends or onward & ends
        assert state not in onward


@pytest.mark.parametrize(("states", "table"), [(JobState, JOB_TRANSITIONS), (Stage, LATENT_TRANSITIONS)])
def test_what_the_table_lacks_is_illegal(states: Any, table: Any) -> None:
    for now, then in itertools.product(states, states):
        if (now, then) in table:
            check(table, now, then)
        else:
            with pytest.raises(IllegalTransition):
                check(table, now, then)


def test_a_table_is_drawn_with_its_causes() -> None:
    drawn = diagram(JOB_TRANSITIONS)
    assert drawn.startswith("stateDiagram-v2\n")
    assert "    queued --> running: work on its first image begins" in drawn
    assert len(drawn.splitlines()) == len(JOB_TRANSITIONS) + 1


def latents(count: int, width: int = 64) -> list[Latent]:
    made = []
    for number in range(count):
        (latent,) = new_job(f"{number:026}", spec(width=width), START, None, model()).latents
        latent.rank = (0.0, latent.id.job, 0)
        made.append(latent)
    return made


@given(
    actions=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60),
    count=st.integers(0, 12),
)
def test_the_backlog_gives_what_waits_in_order(actions: list[tuple[int, bool]], count: int) -> None:
    everything = [*latents(5), *(latent for latent in latents(5, width=128))]
    backlog, waiting = Backlog(), set()
    for which, add in actions:
        latent = everything[which]
        if add and not latent.ticket:
            backlog.add(latent)
            waiting.add(which)
        elif not add:
            backlog.remove(latent)
            waiting.discard(which)
    for key, members in (("shapes/64x64", range(5)), ("shapes/128x64", range(5, 10))):
        expected = [everything[which] for which in members if which in waiting]
        assert backlog.first("shapes", key, count) == expected[:count]
        assert backlog.count("shapes", key) == len(expected)
    assert backlog.total == backlog.count("shapes") == len(waiting)
    assert {key: number for key, number, _ in backlog.keys("shapes")}.get("shapes/64x64", 0) == len(
        waiting & {*range(5)}
    )
    oldest = min((everything[which] for which in waiting), key=lambda latent: latent.rank, default=None)
    head = backlog.head(["shapes", "no such model"])
    assert (head and head.rank) == (oldest and oldest.rank)


def test_the_backlog_does_not_keep_what_left() -> None:
    backlog = Backlog()
    first, *others = latents(2000)
    backlog.add(first)
    for latent in others:
        backlog.add(latent)
        backlog.remove(latent)
    line = backlog._models["shapes"]
    assert len(line._heap) < 100


@pytest.mark.parametrize(
    "wrong",
    [
        {"tiers": ("standard",)},
        {"tiers": ("standard=soon",)},
        {"tiers": ("standard=0",)},
        {"tiers": ("standard=nan",)},
        {"tiers": ("=1",)},
        {"default_tier": "platinum"},
    ],
)
def test_tiers_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SchedulerConfig(**wrong)


def test_the_memory_store_keeps_the_last_of_each_job() -> None:
    store = MemoryStore()
    views = [standing(new_job(f"{number:026}", spec(), START, None, model())).view for number in (2, 1)]
    for view in views:
        store.save(view)
    assert store.saved() == (views[0].job, views[1].job)
    assert store.saved() == ()
    assert list(store.load()) == [views[1], views[0]]
    store.delete(views[0].job)
    assert list(store.load()) == [views[1]]
