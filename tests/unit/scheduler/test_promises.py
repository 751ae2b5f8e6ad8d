"""With exact costs no promise is broken, whatever arrives, leaves or fails to arrive.

The records are audited after every event of these runs (see `stormy_world`).
"""

import random

import pytest
from hypothesis import given, settings
from storms import storms
from stormy_world import Ask, Storm, StormyWorld, weather

from simulation.instance import Device, KeyCosts, Request

quick = settings(max_examples=60, deadline=None, derandomize=True)


def _assert_kept(world: StormyWorld) -> None:
    broken = {index: fate for index, fate in enumerate(world.fates) if fate.view is not None and fate.broken}
    assert not broken


@quick
@given(storms())
def test_whatever_arrives_every_promise_is_kept(storm: Storm) -> None:
    _assert_kept(weather(storm))


@quick
@given(storms(leaving=True))
def test_whoever_leaves_every_promise_to_who_stays_is_kept(storm: Storm) -> None:
    _assert_kept(weather(storm))


@quick
@given(storms(deaths=True))
def test_a_worker_that_dies_breaks_no_promise_that_others_keep(storm: Storm) -> None:
    _assert_kept(weather(storm))


@settings(quick, max_examples=25)
@given(storms(leaving=True))
def test_the_same_storm_leads_to_the_same_schedule(storm: Storm) -> None:
    first, second = StormyWorld(storm, timeline=True), StormyWorld(storm, timeline=True)
    first.run()
    second.run()
    assert first.recorder.segments == second.recorder.segments
    assert first.fates == second.fates


@pytest.mark.parametrize("seed", range(3))
def test_twice_as_much_as_can_be_done_breaks_no_promise(seed: int) -> None:
    """One worker that is never idle, so that every line goes on from where the last one left it."""
    chance = random.Random(seed)
    costs = KeyCosts((0.01,), (0.02, 0.024, 0.028, 0.034), (0.02, 0.03))
    now, asks = 0.5, []
    for _ in range(100):
        now += chance.expovariate(1 / 0.05)
        steps = chance.choice((5, 10, 20))
        asks.append(Ask(Request(now, now + 2.0 * (0.03 + 0.02 * steps), "m/512x512", steps)))
    world = weather(Storm((Device("d0", "kind", {"m/512x512": costs}, 4, 4, 2),), tuple(asks)))
    assert sum(fate.promised_at is not None for fate in world.fates) > 30
    _assert_kept(world)
