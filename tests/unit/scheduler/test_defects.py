"""Should the core itself break off half-way through an event, nothing that was accepted is lost for it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_audit import audit
from scheduler_world import World, spec

from collodion.scheduler.admission import Admission
from collodion.scheduler.dispatch import Dispatch
from collodion.scheduler.events import Command, Event
from collodion.scheduler.lifecycle import Lifecycle
from collodion.scheduler.planner import Planner
from collodion.scheduler.plans import WorkerPlan
from collodion.scheduler.prediction import Prediction
from collodion.scheduler.slack import Slack
from collodion.scheduler.watchers import Watchers
from collodion.wire.jobs import JobState, Reason


class Defect(Exception):
    """Not one of ours."""


class Unreliable(World):
    """A world whose core raises now and then, at the places that are named, and is mended as the loop does."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.raised = 0

    def handle(self, event: Event) -> list[Command]:
        try:
            commands = self.core.handle(event, self.now)
        except Defect:
            self.raised += 1
            commands = self.core.mend(event, self.now)
        self.carry_out(commands)
        return commands


_APART = 50  # a defect that comes back while it is mended ends the process: nothing could be trusted any more

PLACES = [
    (Prediction, "finish"),
    (Watchers, "tell"),
    (Watchers, "end"),
    (Watchers, "update"),
    (Dispatch, "_decide"),
    (Dispatch, "_share_out"),
    (Dispatch, "withdraw"),
    (Dispatch, "enqueue"),
    (Admission, "judge"),
    (Planner, "trials"),
    (Planner, "commit"),
    (Planner, "lose"),
    (WorkerPlan, "adopt"),
    (WorkerPlan, "advance"),
    (Slack, "promise"),
]


@settings(max_examples=40, deadline=None)
@given(place=st.sampled_from(PLACES), skip=st.integers(1, 60), times=st.integers(1, 3))
def test_every_job_still_ends(place: tuple[type, str], skip: int, times: int) -> None:
    world = Unreliable(grace_s=2.0)
    frontend, worker = world.frontend(), world.worker(max_batch=2)
    world.worker(max_batch=3)
    world.settle()
    calls = [frontend.submit(spec(images=2, steps=3)) for _ in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        _break(patch, place, skip, times)
        world.step(2)
        worker.alive = False
        frontend.leave(calls[0])
        world.pass_time(5.0)
        world.worker(max_batch=2)
        world.run()
    audit(world.core)
    world.pass_time(4.0)
    assert not frontend.watching
    assert not world.core.book.live
    for call in calls[1:]:
        refused = call in frontend.answers
        assert refused or frontend.events[call][-1].state is JobState.FINISHED


def test_the_caller_of_a_message_that_cannot_be_handled_is_told() -> None:
    world = Unreliable()
    frontend = world.frontend()
    world.worker()
    world.settle()
    with pytest.MonkeyPatch.context() as patch:
        _break(patch, (Lifecycle, "watched"), 1, 1)
        call = frontend.submit(spec())
        world.settle()
    assert world.raised == 1
    assert frontend.answers[call].reason is Reason.INTERNAL
    world.pass_time(15.0)
    assert [view.state for view in world.stored.values()] == [JobState.CANCELLED]


def test_a_watcher_that_was_not_told_of_its_acceptance_is_told_at_its_next_beat() -> None:
    world = Unreliable()
    frontend = world.frontend()
    world.worker()
    world.settle()
    with pytest.MonkeyPatch.context() as patch:
        _break(patch, (Watchers, "update"), 1, 1)
        call = frontend.submit(spec())
        world.settle()
    assert world.raised == 1
    world.run()
    assert frontend.kinds(call)[0] == "Accepted"
    assert frontend.kinds(call)[-1] == "Ended"


def _break(patch: pytest.MonkeyPatch, place: tuple[type, str], skip: int, times: int) -> None:
    owner, name = place
    works = getattr(owner, name)
    calls = 0

    def breaks(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in {skip + _APART * again for again in range(times)}:
            raise Defect(name)
        return works(*arguments, **named)

    patch.setattr(owner, name, breaks)
