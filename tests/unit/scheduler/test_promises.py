"""With exact costs no promise is broken, whatever arrives, leaves or fails to arrive.

The records are audited after every event of these runs (see `stormy_world`).
"""

from hypothesis import given, settings
from storms import storms
from stormy_world import Storm, StormyWorld, weather

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
