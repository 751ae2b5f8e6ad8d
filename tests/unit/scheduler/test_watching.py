"""What the watchers of a job are told, and what happens when they leave."""

from typing import Any
from unittest.mock import ANY

import pytest
from scheduler_world import FakeFrontend, World, spec

from collodion.scheduler.events import SendFailed
from collodion.wire.jobs import JobState, Reason, Stage
from collodion.wire.to_frontend import (
    Ended,
    ImageFailed,
    ImageStored,
    JobEvent,
    Previewed,
    Progressed,
    StageChanged,
    Warned,
)
from collodion.wire.to_scheduler import LatentReport, PreviewMade, WorkerReport


def watched(job: Any = None, **settings: Any) -> tuple[World, FakeFrontend, int]:
    world = World(**settings)
    world.worker()
    frontend = world.frontend()
    world.settle()
    call = frontend.submit(job or spec(steps=5))
    world.step(2)
    return world, frontend, call


def test_a_watcher_is_told_everything_in_order() -> None:
    world, frontend, call = watched(spec(steps=3))
    world.run()
    assert frontend.kinds(call)[0] == "Accepted"
    assert [event.stage for event in frontend.of(call, StageChanged)] == [Stage.DENOISING, Stage.DECODING, Stage.DONE]
    assert [event.step for event in frontend.of(call, Progressed)] == [1, 2, 3]
    assert len(frontend.of(call, ImageStored)) == 1
    ended = frontend.events[call][-1]
    assert isinstance(ended, Ended)
    assert ended.state is JobState.FINISHED
    assert ended.timings.total_s == pytest.approx(
        ended.timings.queued_s + ended.timings.running_s + ended.timings.parked_s
    )
    assert call not in frontend.watching


def test_a_job_with_a_failed_image_goes_on_with_the_others_and_fails() -> None:
    world, frontend, call = watched(spec(images=3, steps=4))
    world.workers[0].poison.add(next(name for name in world.workers[0].latents if name.image == 1))
    world.run()
    assert [event.image.index for event in frontend.of(call, ImageStored)] == [0, 2]
    assert [event.index for event in frontend.of(call, ImageFailed)] == [1]
    ended = frontend.events[call][-1]
    assert (ended.state, ended.failure.reason) == (JobState.FAILED, Reason.NON_FINITE_LATENT)
    view = world.stored[frontend.events[call][0].view.job]
    assert [image.index for image in view.images] == [0, 2]


def test_any_number_may_watch_and_each_is_told_every_image_once() -> None:
    world, frontend, call = watched(spec(images=2, steps=4))
    other = world.frontend()
    late = other.watch(frontend.job(call))
    world.run()
    again = other.watch(frontend.job(call))
    world.settle()
    for calls, peer in ((call, frontend), (late, other), (again, other)):
        assert peer.kinds(calls)[0] == "Accepted"
        assert [event.image.index for event in peer.of(calls, ImageStored)] == [0, 1]
        assert peer.kinds(calls)[-1] == "Ended"


def test_a_call_that_re_attaches_is_told_the_present_state_then_what_ended_before() -> None:
    world, frontend, call = watched(spec(images=3, steps=3))
    names = sorted(world.workers[0].latents)
    world.workers[0].poison.add(names[2])
    world.step(1)
    job = frontend.job(call)
    world.step(20)
    late = frontend.watch(job)
    world.settle()
    assert frontend.kinds(late)[:4] == ["Accepted", "ImageStored", "ImageStored", "ImageFailed"]


def test_hanging_up_parks_the_job_at_once_and_cancels_it_after_the_grace() -> None:
    world, frontend, call = watched()
    job = frontend.job(call)
    frontend.leave(call)
    world.settle()
    assert world.core.book.live[job].state is JobState.PARKED
    assert not world.workers[0].running
    assert [latent.stage for latent in world.workers[0].latents.values()] == [Stage.PARKED]
    world.pass_time(9.5)
    assert world.core.book.live[job].state is JobState.PARKED
    world.pass_time(1.0)
    assert world.stored[job].state is JobState.CANCELLED
    assert not world.workers[0].latents


def test_a_parked_job_goes_on_where_it_was_when_somebody_comes_back() -> None:
    world, frontend, call = watched(spec(steps=5))
    job = frontend.job(call)
    frontend.leave(call)
    world.pass_time(5.0)
    back = frontend.watch(job)
    world.pass_time(20.0)
    world.run()
    assert frontend.events[back][-1].state is JobState.FINISHED
    assert min(event.step for event in frontend.of(back, Progressed)) == 3
    assert frontend.events[back][-1].timings.parked_s > 4.0


def test_a_call_that_a_beat_no_longer_names_is_hung_up() -> None:
    world, frontend, call = watched()
    del frontend.watching[call]
    frontend.beat()
    world.settle()
    assert world.core.book.states[JobState.PARKED] == 1


def test_a_job_is_parked_only_when_its_last_watcher_leaves() -> None:
    world, frontend, call = watched()
    second = frontend.watch(frontend.job(call))
    world.settle()
    frontend.leave(call)
    world.settle()
    assert not world.core.book.states[JobState.PARKED]
    frontend.leave(second)
    world.settle()
    assert world.core.book.states[JobState.PARKED] == 1


def test_a_detached_job_runs_on_with_nobody_watching() -> None:
    world, frontend, call = watched(spec(detach=True))
    job = frontend.job(call)
    frontend.leave(call)
    world.run()
    assert world.stored[job].state is JobState.FINISHED


def test_a_dead_frontend_is_a_hang_up_with_a_longer_grace() -> None:
    world, frontend, call = watched()
    job = frontend.job(call)
    frontend.alive = False
    world.pass_time(4.5)
    assert world.core.book.live[job].state is JobState.PARKED
    world.pass_time(25.0)
    other = world.frontend()
    back = other.watch(job)
    world.run()
    assert other.events[back][-1].state is JobState.FINISHED


def test_nobody_comes_back_after_a_frontends_death_and_the_job_is_cancelled() -> None:
    world, frontend, call = watched()
    job = frontend.job(call)
    frontend.alive = False
    world.pass_time(36.0)
    assert world.stored[job].state is JobState.CANCELLED
    assert not list(world.core.watchers)


def test_a_frontend_that_was_silent_for_a_while_goes_on_where_it_was() -> None:
    world, frontend, call = watched(spec(images=2, steps=4))
    frontend.alive = False
    world.pass_time(6.0)
    frontend.alive = True
    world.pass_time(1.0)
    world.run()
    assert frontend.kinds(call).count("Accepted") == 1
    assert [event.image.index for event in frontend.of(call, ImageStored)] == [0, 1]
    assert frontend.kinds(call)[-1] == "Ended"


def test_a_watcher_learns_from_a_new_scheduler_that_its_job_is_lost() -> None:
    world, frontend, call = watched()
    world.start_scheduler()
    frontend.beat()
    world.settle()
    assert frontend.answers[call].reason is Reason.SCHEDULER_RESTARTED
    assert call not in frontend.watching


def test_a_beat_that_crossed_the_end_on_its_way_is_understood() -> None:
    world, frontend, call = watched(spec(steps=1))
    assert frontend.kinds(call)[-1] == "Ended"
    frontend.watching[call] = frontend.job(call)
    frontend.beat()
    world.settle()
    assert frontend.kinds(call).count("Ended") == 1
    assert call not in frontend.answers


def test_an_end_that_got_lost_is_told_again() -> None:
    world, frontend, call = watched(spec(steps=1))
    lost = frontend.events[call].pop()
    assert isinstance(lost, Ended)
    frontend.watching[call] = frontend.job(call)
    world.pass_time(2.5)
    assert frontend.events[call][-1] == lost
    assert call not in frontend.watching
    world.pass_time(1.0)
    assert not list(world.core.watchers)


def test_a_stalled_frontend_is_brought_up_to_date_when_it_reads_again() -> None:
    world, frontend, call = watched(spec(images=2, steps=4))
    frontend.reads = False
    world.run()
    before = frontend.kinds(call)
    world.pass_time(2.5)
    assert frontend.kinds(call) == before
    frontend.reads = True
    world.pass_time(1.0)
    assert [event.image.index for event in frontend.of(call, ImageStored)] == [0, 1]
    assert frontend.kinds(call)[-1] == "Ended"
    assert frontend.kinds(call).count("Accepted") == 1


def test_a_stalled_frontend_learns_that_an_image_began_anew() -> None:
    world, frontend, call = watched(spec(steps=9))
    frontend.reads = False
    world.workers[0].alive = False
    world.pass_time(5.0)
    world.worker()
    world.step(1)
    frontend.reads = True
    world.pass_time(1.0)
    told = [event for event in frontend.events[call] if isinstance(event, StageChanged | Progressed)]
    assert told[-4:-1] == [Progressed(0, 2, 9, ANY), StageChanged(0, Stage.WAITING), StageChanged(0, Stage.DENOISING)]
    assert told[-1].step == 1


@pytest.mark.parametrize("event", [Progressed(0, 1, 4), Previewed(0, 1, "image/webp")])
def test_what_may_be_coalesced_is_not_missed(event: Any) -> None:
    world, frontend, call = watched()
    world.handle(SendFailed(frontend.peer, JobEvent((call,), frontend.job(call), world.now, event)))
    (watcher,) = world.core.watchers
    assert not watcher.stale


def test_a_failed_send_for_a_call_that_left_is_harmless() -> None:
    world, frontend, call = watched()
    world.handle(
        SendFailed(b"nobody", JobEvent((call, 99), frontend.job(call), world.now, StageChanged(0, Stage.DONE)))
    )
    (watcher,) = world.core.watchers
    assert not watcher.stale


def test_cancelling_ends_the_job_now_and_cancelling_again_changes_nothing() -> None:
    world, frontend, call = watched()
    job = frontend.job(call)
    first = frontend.cancel(job)
    world.settle()
    assert frontend.answers[first].view.state is JobState.CANCELLED
    assert frontend.events[call][-1].state is JobState.CANCELLED
    assert frontend.events[call][-1].failure.reason is Reason.CANCELLED
    assert not world.workers[0].latents
    again = frontend.cancel(job)
    world.settle()
    assert frontend.answers[again].view == frontend.answers[first].view


def test_previews_are_relayed_with_their_bytes_and_never_go_back() -> None:
    world, _, call = watched()
    worker = world.workers[0]
    (name,) = worker.latents
    world.commands.clear()
    for step in (2, 1, 3):
        preview = PreviewMade(worker.incarnation, worker.scheduler, name, step, "image/webp")
        world.say(worker, preview, b"picture")
    previews = [command for command in world.commands if isinstance(command.message.event, Previewed)]
    assert [command.message.event.step for command in previews] == [2, 3]
    assert {command.opaque for command in previews} == {b"picture"}
    assert previews[0].message.calls == (call,)


def test_a_warning_is_told_once_for_the_job() -> None:
    world, frontend, call = watched(spec(images=2))
    worker = world.workers[0]
    for name in worker.latents:
        report = LatentReport(name, Stage.DENOISING, 2, 2, warnings=(("PROMPT_TRUNCATED", "the prompt is too long"),))
        world.say(worker, WorkerReport(worker.incarnation, worker.scheduler, worker.number, (report,)))
    world.settle()
    assert frontend.of(call, Warned) == [Warned("PROMPT_TRUNCATED", "the prompt is too long")]


def test_the_finish_is_predicted_once_costs_are_known() -> None:
    world, frontend, call = watched(spec(steps=8))
    world.step(2)
    predicted = [event.predicted_finish for event in frontend.of(call, Progressed)]
    assert predicted[0] is not None
    assert predicted[-1] == pytest.approx(world.now + 4 * 0.01, abs=0.02)
