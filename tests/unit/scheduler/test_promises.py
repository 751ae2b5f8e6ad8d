"""With exact costs no promise is broken, whatever arrives, leaves or fails to arrive.

The records are audited after every event of these runs (see `stormy_world`).
"""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from storms import storms
from stormy_world import Ask, Happening, Storm, StormyWorld, weather

from collodion.scheduler.plans import TRANSIT_S
from collodion.wire.jobs import DeadlinePolicy
from simulation.instance import Device, KeyCosts, Request

quick = settings(max_examples=100, deadline=None, derandomize=True)


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


# ------------------------------------------------------------ what once broke a promise, as small as it would get


def _device(max_batch: int, encode_batch: int, decode_batch: int, *costs: KeyCosts) -> Device:
    keys = ("m/512x512", "m/768x768")
    return Device("d0", "kind", dict(zip(keys, costs, strict=False)), max_batch, encode_batch, decode_batch)


def _ask(when: float, slo_s: float, steps: int, images: int = 1, key: str = "m/512x512", **more: Any) -> Ask:
    return Ask(Request(when, when + slo_s, key, steps, images), **more)


_BEST_EFFORT = DeadlinePolicy.BEST_EFFORT
_AT_ONCE = {"admission_window_s": 0.0}

ONCE_BROKEN = {
    "two orders on their way to an idle worker": Storm(
        (_device(4, 2, 4, KeyCosts((0.04, 0.048), (0.05, 0.065), (0.107, 0.162))),),
        (_ask(0.5, 1.2365, 1), _ask(0.5, 0.2959, 1)),
        settings=_AT_ONCE,
    ),
    "the report takes its time, too": Storm(
        (_device(2, 2, 1, KeyCosts((0.0017,), (0.012, 0.0126), (0.0292,))),),
        (_ask(0.5, 0.0915, 2, 2),),
        delay_s=(TRANSIT_S, TRANSIT_S),
    ),
    "offered again while it is decoded": Storm(
        (_device(8, 8, 2, KeyCosts((0.0301, 0.0511), (0.05, 0.065), (0.0593, 0.1106))),),
        (_ask(0.5, 0.6837, 1), _ask(0.506, 0.1909, 1, policy=_BEST_EFFORT)),
    ),
    "done before the plan looked again": Storm(
        (
            _device(
                *(4, 1, 4),
                KeyCosts((0.0067,), (0.02, 0.032, 0.033), (0.0114, 0.0195, 0.0248)),
                KeyCosts((0.0058,), (0.0085, 0.0136), (0.0097, 0.013)),
            ),
        ),
        (_ask(0.5, 0.1022, 1, 2, "m/768x768"), _ask(0.5041, 2.4726, 1, 1, "m/768x768"), _ask(0.5366, 0.0824, 1, 3)),
        delay_s=(0.0, 0.0),
        settings=_AT_ONCE,
    ),
    "set aside, and decoded all the same": Storm(
        (_device(8, 2, 1, KeyCosts((0.0145, 0.0178), (0.048, 0.0768, 0.0792, 0.0792), (0.0791,))),),
        (_ask(0.9455, 1.0425, 2, watched=True), _ask(0.9787, 1.1523, 3), _ask(1.1719, 3.4069, 40, 2)),
        (Happening(1.0443, "leave", 0),),
        settings=_AT_ONCE,
    ),
    "boundaries between which nothing is stepped": Storm(
        (_device(4, 2, 1, KeyCosts((0.0049, 0.0059), (0.005, 0.005), (0.0111,))),),
        (_ask(0.5, 0.0744, 10), _ask(0.5537, 1.4155, 3), _ask(0.5636, 0.0363, 2)),
        settings=_AT_ONCE,
    ),
    "one leaves, and another moves up and is decoded first": Storm(
        (_device(2, 8, 4, KeyCosts((0.0173, 0.0315, 0.0445), (0.05, 0.05), (0.0838, 0.1535, 0.2005))),),
        (_ask(1.0, 1.4, 25), _ask(1.01, 4.2, 40), _ask(1.02, 5.0, 4)),
        (Happening(1.9, "cancel", 1),),
    ),
}


@pytest.mark.parametrize("storm", ONCE_BROKEN.values(), ids=ONCE_BROKEN.keys())
def test_what_once_broke_a_promise_breaks_none(storm: Storm) -> None:
    world = weather(storm)
    assert any(fate.promised_at is not None for fate in world.fates)
    _assert_kept(world)
