"""More models than memory, in storms: every promise is kept, everybody gets an answer, and no model goes under a latent.

The records are audited after every event of these runs (see `scheduler_audit`), the residency of models with them.
"""

from hypothesis import given, settings
from storms import storms
from stormy_world import Storm, StormyWorld, weather

from collodion.wire.to_frontend import Refused

quick = settings(max_examples=100, deadline=None, derandomize=True)


def _assert_all_is_well(world: StormyWorld) -> None:
    broken = {index: fate for index, fate in enumerate(world.fates) if fate.view is not None and fate.broken}
    assert not broken
    for fate in world.fates:
        assert fate.view is not None or isinstance(fate.refused, Refused), "it was never answered"


@quick
@given(storms(models=True))
def test_whatever_arrives_every_promise_is_kept_and_everybody_has_his_turn(storm: Storm) -> None:
    _assert_all_is_well(weather(storm))


@quick
@given(storms(models=True, leaving=True))
def test_whoever_leaves_the_others_have_their_turn(storm: Storm) -> None:
    _assert_all_is_well(weather(storm))


@quick
@given(storms(models=True, deaths=True))
def test_when_a_worker_dies_its_models_come_to_others(storm: Storm) -> None:
    _assert_all_is_well(weather(storm))


@settings(quick, max_examples=20)
@given(storms(models=True, leaving=True))
def test_the_same_storm_leads_to_the_same_schedule(storm: Storm) -> None:
    first, second = StormyWorld(storm, timeline=True), StormyWorld(storm, timeline=True)
    first.run()
    second.run()
    assert first.recorder.segments == second.recorder.segments
    assert first.fates == second.fates
