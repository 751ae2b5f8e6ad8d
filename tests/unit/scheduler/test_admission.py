"""What admission says is true: counter-offers hold at the moment they are made, and what is degraded is so as was allowed, and told."""

import copy
import dataclasses

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_world import FakeFrontend, World, spec
from storms import REFUSE, STEADY, storms
from stormy_world import Storm, StormyWorld, weather

from collodion.scheduler.core import Core
from collodion.scheduler.events import Event, FrontendSaid, Persist, Persisted, TellFrontend
from collodion.wire.jobs import DeadlinePolicy, JobSpec
from collodion.wire.to_frontend import CounterOffer, JobAnswer, Refused, Warned
from collodion.wire.to_scheduler import SubmitJob

_FRONTEND = b"frontend"
quick = settings(max_examples=30, deadline=None, derandomize=True)


# ------------------------------------------------------------ counter-offers


@quick
@given(storms(wishes=REFUSE, delays=STEADY, tenants=1))
def test_every_counter_offer_is_promised_when_it_is_taken_up_at_once(storm: Storm) -> None:
    world = StormyWorld(dataclasses.replace(storm, settings=storm.settings | {"admission_window_s": 0.0}))
    checked: set[int] = set()

    def check(_: Event) -> None:
        for index, fate in enumerate(world.fates):
            if fate.refused is not None and index not in checked:
                checked.add(index)
                if fate.refused.offer is not None:
                    _check_offer(world, world.spec(index), fate.refused.offer)

    world.listeners.append(check)
    world.run()


def _check_offer(world: StormyWorld, asked: JobSpec, offer: CounterOffer) -> None:
    replace = msgspec.structs.replace
    if offer.finish is not None:
        assert _is_promised(world.core, replace(asked, slo_s=offer.finish - world.now), world.now)
    if offer.steps is not None:
        assert offer.steps < asked.parameters.steps
        assert _is_promised(
            world.core, replace(asked, parameters=replace(asked.parameters, steps=offer.steps)), world.now
        )
    if offer.tier is not None:
        assert offer.tier != asked.tier
        assert _is_promised(world.core, replace(asked, tier=offer.tier, slo_s=None), world.now)


def _is_promised(core: Core, asked: JobSpec, now: float) -> bool:
    """Whether the core would promise this, were it asked now; it is not asked itself. Without a deadline there is nothing to promise."""
    core = copy.deepcopy(core)
    commands = core.handle(FrontendSaid(_FRONTEND, SubmitJob(1 << 20, asked, watch=False)), now)
    commands += core.handle(Persisted(tuple(each.view.job for each in commands if isinstance(each, Persist))), now)
    answers = [each.message for each in commands if isinstance(each, TellFrontend)]
    (answer,) = (each for each in answers if isinstance(each, JobAnswer | Refused) and each.call == 1 << 20)
    return isinstance(answer, JobAnswer) and (answer.view.promised or answer.view.deadline is None)


# ------------------------------------------------------------ fewer steps


@quick
@given(storms(wishes=(DeadlinePolicy.DEGRADE,), delays=STEADY))
def test_steps_are_left_out_only_as_far_as_was_allowed_and_that_is_told(storm: Storm) -> None:
    asks = tuple(dataclasses.replace(ask, watched=True) for ask in storm.asks)
    world = weather(dataclasses.replace(storm, asks=asks))
    for index, fate in enumerate(world.fates):
        if fate.view is None:
            continue
        asked, granted = world.spec(index), fate.view.spec.parameters.steps
        assert asked.min_steps <= granted <= asked.parameters.steps
        assert ("DEGRADED" in fate.warnings) == (granted < asked.parameters.steps)
        assert fate.promised_at is not None or granted == asked.parameters.steps


@given(steps=st.integers(5, 60), seconds=st.floats(0.12, 0.6))
@settings(quick, max_examples=20)
def test_a_request_that_was_degraded_is_the_same_when_it_is_sent_again(steps: int, seconds: float) -> None:
    world, frontend = _world()
    asked = spec(
        steps=steps, slo_s=seconds, deadline_policy=DeadlinePolicy.DEGRADE, min_steps=1, request_id="one", detach=True
    )
    first = frontend.submit(asked)
    world.settle()
    again = frontend.submit(asked)
    world.settle()
    assert frontend.job(again) == frontend.job(first)
    (accepted,) = world.core.book.live.values()
    assert bool(frontend.of(first, Warned)) == (accepted.spec.parameters.steps < steps)
    world.run()
    once_more = frontend.submit(asked)
    world.settle()
    assert frontend.job(once_more) == frontend.job(first)


def test_fewer_steps_than_asked_for_are_promised_where_those_asked_for_cannot_be() -> None:
    world, frontend = _world()
    call = frontend.submit(spec(steps=50, slo_s=0.3, deadline_policy=DeadlinePolicy.DEGRADE, min_steps=10))
    world.settle()
    (accepted,) = world.core.book.live.values()
    assert accepted.promised
    assert 10 <= accepted.spec.parameters.steps < 50
    assert [warned.reason for warned in frontend.of(call, Warned)] == ["DEGRADED"]


def test_what_cannot_be_promised_even_with_the_fewest_steps_is_refused_with_an_offer() -> None:
    world, frontend = _world()
    call = frontend.submit(spec(steps=50, slo_s=0.3, deadline_policy=DeadlinePolicy.DEGRADE, min_steps=45))
    world.settle()
    refused = frontend.answers[call]
    assert isinstance(refused, Refused)
    assert refused.retry_after_s is not None
    assert refused.offer is not None
    assert refused.offer.finish is not None
    assert refused.offer.steps is not None
    assert refused.offer.steps < 45
    assert refused.offer.tier == "interactive"


def _world() -> tuple[World, FakeFrontend]:
    """One idle worker whose costs are known: 10 ms an evaluation."""
    world = World()
    world.core.costs.load("", "shapes/64x64", {"step": {1: 0.01, 4: 0.02}, "encode": {1: 0.01}, "decode": {1: 0.01}})
    frontend = world.frontend()
    world.worker()
    world.settle()
    return world, frontend
