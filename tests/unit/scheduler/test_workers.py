"""What workers may do to the scheduler: report, repeat themselves, forget, stall, die and come back."""

from typing import Any

import pytest
from scheduler_audit import audit
from scheduler_world import FakeFrontend, SimulatedWorker, World, model, spec

from collodion.scheduler.config import PolicyName
from collodion.scheduler.events import Ticked
from collodion.wire.jobs import JobState, Reason, Stage
from collodion.wire.to_frontend import ImageStored, Progressed, StageChanged
from collodion.wire.to_scheduler import LatentReport, WorkerLeft, WorkerReport
from collodion.wire.to_worker import Membership, SchedulerBeat


def one_worker(job: Any = None, **worker: Any) -> tuple[World, FakeFrontend, SimulatedWorker, int]:
    world = World()
    device = world.worker(**worker)
    frontend = world.frontend()
    world.settle()
    call = frontend.submit(job or spec(steps=6))
    world.step(2)
    return world, frontend, device, call


def memberships(world: World, worker: SimulatedWorker) -> list[Membership]:
    messages = [command.message for command in world.commands if getattr(command, "peer", None) == worker.peer]
    return [message for message in messages if isinstance(message, Membership)]


def report(worker: SimulatedWorker, *latents: LatentReport, number: int | None = None, **more: Any) -> WorkerReport:
    return WorkerReport(
        more.pop("incarnation", worker.incarnation),
        more.pop("scheduler", worker.scheduler),
        worker.number if number is None else number,
        latents,
        **more,
    )


def test_a_worker_that_is_not_known_is_told_who_lives() -> None:
    world = World()
    stranger = SimulatedWorker("stranger")
    world.workers.append(stranger)
    world.say(stranger, WorkerReport("stranger", "an older scheduler", 7))
    assert list(stranger.inbox) == [SchedulerBeat("scheduler-1")]


def test_a_job_is_ordered_until_the_worker_confirms_to_know_it_and_no_longer() -> None:
    world, frontend, worker, _ = one_worker()
    frontend.submit(spec())
    world.settle()
    first, second = memberships(world, worker)[-2:]
    assert len(first.orders) == 1
    assert [order.job for order in second.orders] == [second.running[1].job]
    world.step()
    frontend.submit(spec())
    world.settle()
    assert len(memberships(world, worker)[-1].orders) == 1


def test_a_membership_that_got_lost_is_said_again_at_the_next_beat() -> None:
    world, frontend, worker, _ = one_worker()
    frontend.submit(spec())
    while frontend.outbox:
        world.deliver_up(frontend)
    worker.inbox.clear()
    world.pass_time(1.0)
    assert len(worker.latents) == 2


def test_an_order_that_a_worker_lacks_is_said_again() -> None:
    world, frontend, worker, call = one_worker()
    worker.orders.clear()
    worker.latents.clear()
    world.run()
    assert frontend.events[call][-1].state is JobState.FINISHED


def test_a_latent_that_a_worker_lost_waits_again() -> None:
    world, frontend, worker, call = one_worker()
    worker.latents.clear()
    world.pass_time(1.0)
    assert Stage.WAITING in [event.stage for event in frontend.of(call, StageChanged)]
    world.run()
    assert frontend.events[call][-1].state is JobState.FINISHED


@pytest.mark.parametrize("left", [True, False])
def test_the_latents_of_a_worker_that_is_gone_begin_anew_elsewhere(left: bool) -> None:
    world, frontend, worker, call = one_worker()
    if left:
        worker.leave()
        world.settle()
    worker.alive = False
    if not left:
        world.pass_time(4.5)
    assert world.core.book.states[JobState.QUEUED] == 1
    world.worker()
    world.run()
    stages = [event.stage for event in frontend.of(call, StageChanged)]
    assert stages[:3] == [Stage.DENOISING, Stage.WAITING, Stage.DENOISING]
    assert [event.step for event in frontend.of(call, Progressed)] == [1, 2, 1, 2, 3, 4, 5, 6]
    assert len(frontend.of(call, ImageStored)) == 1


def test_an_image_that_three_workers_died_of_fails() -> None:
    world, frontend, _, call = one_worker()
    for _ in range(3):
        world.workers[-1].alive = False
        world.pass_time(4.5)
        world.worker()
        world.step(1)
    ended = frontend.events[call][-1]
    assert (ended.state, ended.failure.reason) == (JobState.FAILED, Reason.WORKER_LOST_REPEATEDLY)


@pytest.mark.parametrize("policy", PolicyName)
def test_an_image_that_workers_die_of_takes_no_neighbour_with_it(policy: PolicyName) -> None:
    world = World(policy=policy)
    frontend = world.frontend()
    world.worker()
    calls = [frontend.submit(spec(images=images)) for images in (2, 1, 1)]
    world.settle()
    deadly = frontend.job(calls[1])
    while world.core.book.live:
        world.settle()
        if any(name.job == deadly for name in world.workers[-1].running):
            world.workers[-1].alive = False  # what it did until then, it has not said
            world.pass_time(4.5)
            world.worker()
        else:
            world.step()
        world.pass_time(0.1)
        assert len(world.workers) <= 4
    ends = [frontend.events[call][-1].state for call in calls]
    assert ends == [JobState.FINISHED, JobState.FAILED, JobState.FINISHED]


def test_an_image_that_was_only_parked_is_not_blamed_for_the_deaths() -> None:
    world, frontend, _, first = one_worker(max_batch=1)
    second = frontend.submit(spec())
    for _ in range(3):
        world.workers[-1].alive = False
        world.pass_time(4.5)
        world.worker(max_batch=1)
        world.step(1)
    assert frontend.events[first][-1].state is JobState.FAILED
    world.run()
    assert frontend.events[second][-1].state is JobState.FINISHED


def test_workers_that_leave_by_their_own_will_are_not_held_against_an_image() -> None:
    world, frontend, _, call = one_worker()
    for _ in range(4):
        world.workers[-1].leave()
        world.settle()
        world.workers[-1].alive = False
        world.worker()
        world.step(1)
    world.run()
    assert frontend.events[call][-1].state is JobState.FINISHED


def test_a_worker_that_was_taken_for_dead_may_return() -> None:
    world, frontend, worker, call = one_worker()
    worker.alive = False
    world.pass_time(4.0)
    assert not world.core.fleet.workers
    worker.alive = True
    world.pass_time(1.0)
    world.run()
    assert frontend.events[call][-1].state is JobState.FINISHED
    assert not worker.latents


def test_a_scheduler_that_stood_still_does_not_take_its_workers_for_dead() -> None:
    world, _, worker, _ = one_worker()
    world.now += 60.0
    world.handle(Ticked())
    assert worker.peer in world.core.fleet.workers
    world.pass_time(4.0, beats=False)
    assert worker.peer not in world.core.fleet.workers


def test_a_new_scheduler_frees_what_a_worker_held_for_the_old_one() -> None:
    world, _, worker, _ = one_worker()
    assert worker.latents
    world.start_scheduler()
    world.pass_time(1.0)
    assert worker.scheduler == "scheduler-2"
    assert not worker.latents


def test_reports_that_say_nothing_of_now_are_harmless() -> None:
    world, frontend, worker, call = one_worker()
    (name,) = worker.latents
    stopped = LatentReport(name, Stage.STOPPED)
    stranger = world.worker()
    world.settle()
    for who, message in (
        (worker, report(worker, stopped, incarnation="another")),
        (worker, report(worker, stopped, scheduler="another")),
        (worker, report(worker, stopped, number=0)),
        (stranger, report(stranger, stopped)),
        (stranger, report(stranger, missing=(name.job, "no such job"))),
        (worker, report(worker, LatentReport(name._replace(image=7), Stage.DONE))),
        (worker, report(worker, LatentReport(name._replace(job="no such job"), Stage.DONE))),
        (worker, report(worker, LatentReport(name, Stage.WAITING))),
        (worker, report(worker, LatentReport(name, Stage.ENCODING, 0, 0))),
        (worker, report(worker, LatentReport(name, Stage.DENOISING, 1, 1))),
    ):
        world.say(who, message)
        audit(world.core)
    view = world.core.book.live[frontend.job(call)]
    assert (view.latents[0].stage, view.latents[0].steps) == (Stage.DENOISING, 2)


def test_progress_is_told_once_however_often_it_is_reported() -> None:
    world, frontend, worker, call = one_worker()
    for _ in range(3):
        worker.beat()
        world.settle()
    assert [event.step for event in frontend.of(call, Progressed)] == [1, 2]


def test_a_place_that_falls_free_is_noticed_from_the_workers_state_too() -> None:
    world, frontend, worker, _ = one_worker(max_batch=1)
    second = frontend.submit(spec())
    world.settle()
    for _ in range(4):
        worker.step()
    worker.outbox.clear()  # the reports are lost
    worker.beat()
    world.settle()
    assert [name.job for name in worker.running] == [frontend.job(second)]


def test_an_end_without_a_picture_or_a_reason_is_a_failure() -> None:
    world, frontend, worker, call = one_worker()
    (name,) = worker.latents
    world.say(worker, report(worker, LatentReport(name, Stage.DONE)))
    world.settle()
    assert frontend.events[call][-1].failure.reason is Reason.WORKER_ERROR


def test_a_worker_that_left_twice_is_gone_once() -> None:
    world, _, worker, _ = one_worker()
    world.say(worker, WorkerLeft(worker.incarnation))
    world.say(worker, WorkerLeft(worker.incarnation))
    assert not world.core.fleet.workers
    audit(world.core)


def test_another_incarnation_at_the_same_peer_is_another_worker() -> None:
    world, frontend, worker, call = one_worker()
    reborn = SimulatedWorker("reborn")
    reborn.beat()
    state, _ = reborn.outbox.popleft()
    world.say(worker, state)
    assert world.core.fleet.workers[worker.peer].incarnation == "reborn"
    assert Stage.WAITING in [latent.stage for latent in world.core.book.live[frontend.job(call)].latents]
    audit(world.core)


def test_images_of_one_job_are_shared_out_over_idle_workers() -> None:
    world = World()
    workers = [world.worker() for _ in range(2)]
    frontend = world.frontend()
    world.settle()
    frontend.submit(spec(images=4))
    world.settle()
    assert [len(worker.running) for worker in workers] == [2, 2]


def test_a_latent_goes_to_the_least_loaded_worker_that_has_its_model() -> None:
    world = World()
    busy, idle = world.worker(), world.worker()
    other = world.worker(models=(model("other"),))
    frontend = world.frontend()
    world.settle()
    frontend.submit(spec())
    world.settle()
    frontend.submit(spec())
    world.settle()
    assert [len(worker.running) for worker in (busy, idle, other)] == [1, 1, 0]
    frontend.submit(spec(model="other"))
    world.settle()
    assert len(other.running) == 1


def test_what_one_worker_has_no_room_for_goes_to_another() -> None:
    world = World()
    small, large = world.worker(max_batch=2), world.worker(max_batch=8)
    frontend = world.frontend()
    world.settle()
    frontend.submit(spec(images=9))
    world.settle()
    assert (len(small.running), len(large.running)) == (2, 7)


def test_no_worker_holds_more_than_it_can() -> None:
    world = World()
    worker = world.worker(max_batch=8, max_resident=3)
    frontend = world.frontend()
    world.settle()
    frontend.submit(spec(images=9))
    world.settle()
    assert len(worker.latents) == 3
    world.run()
    assert max(len(batch) for batch in worker.batches) == 3


def test_a_worker_whose_room_shrinks_to_nothing_is_given_nothing_new() -> None:
    world, frontend, worker, _ = one_worker()
    worker.max_batch, worker.max_resident = -5, -5
    worker.beat()
    frontend.submit(spec())
    world.settle()
    assert worker.running == ()
