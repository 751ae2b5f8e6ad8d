"""Which latents a worker runs, under each policy."""

from typing import Any

from scheduler_world import FakeFrontend, SimulatedWorker, World, spec

from collodion.scheduler.config import PolicyName
from collodion.scheduler.events import Ticked


def start(policy: PolicyName, max_batch: int = 4, **settings: Any) -> tuple[World, FakeFrontend, SimulatedWorker]:
    world = World(policy=policy, **settings)
    worker = world.worker(max_batch=max_batch)
    frontend = world.frontend()
    world.settle()
    return world, frontend, worker


def running(world: World, frontend: FakeFrontend, worker: SimulatedWorker) -> list[int]:
    """The calls whose latents run, in order."""
    calls = {frontend.job(call): call for call in frontend.events if "Accepted" in frontend.kinds(call)}
    return [calls[name.job] for name in worker.running]


def test_fifo_lets_a_newcomer_of_the_same_key_join_the_running_batch() -> None:
    world, frontend, worker = start(PolicyName.FIFO)
    first = frontend.submit(spec(steps=20))
    world.step(5)
    second = frontend.submit(spec(steps=3))
    world.settle()
    assert running(world, frontend, worker) == [first, second]
    world.step(1)
    assert len(worker.batches[-1]) == 2


def test_fifo_runs_the_key_of_the_oldest_and_all_of_that_key_by_age() -> None:
    world, frontend, worker = start(PolicyName.FIFO)
    small = frontend.submit(spec(width=64, steps=3))
    large = frontend.submit(spec(width=128, steps=3))
    late = frontend.submit(spec(width=64, steps=9))
    world.settle()
    assert running(world, frontend, worker) == [small, late]
    world.step(4)
    assert running(world, frontend, worker) == [large]
    world.run()
    assert all(frontend.kinds(call)[-1] == "Ended" for call in (small, large, late))


def test_fifo_parks_a_younger_batch_and_resumes_it_where_it_was() -> None:
    world, frontend, _ = start(PolicyName.FIFO)
    frontend.submit(spec(width=64, steps=2))
    frontend.submit(spec(width=128, steps=2))
    late = frontend.submit(spec(width=64, steps=6))
    world.run()
    steps = [event.step for event in frontend.events[late] if type(event).__name__ == "Progressed"]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert "parked" in [event.stage.value for event in frontend.events[late] if type(event).__name__ == "StageChanged"]


def test_fifo_fills_the_batch_up_to_the_workers_bound_and_no_further() -> None:
    world, frontend, worker = start(PolicyName.FIFO, max_batch=4)
    frontend.submit(spec(images=7))
    world.settle()
    assert [name.image for name in worker.running] == [0, 1, 2, 3, 4, 5, 6], "the next wait in line"
    assert set(worker.caps) == {4}
    world.run()
    assert max(map(len, worker.batches)) == 4


def test_a_cap_of_ours_bounds_the_batch_too() -> None:
    world, frontend, worker = start(PolicyName.FIFO, max_batch=4, batch_cap=2)
    frontend.submit(spec(images=7))
    world.run()
    assert max(map(len, worker.batches)) == 2


def test_a_place_that_falls_free_is_taken_within_a_step() -> None:
    world, frontend, worker = start(PolicyName.FIFO, max_batch=2)
    frontend.submit(spec(steps=2))
    frontend.submit(spec(steps=9))
    third = frontend.submit(spec(steps=9))
    world.step(3)
    assert third in running(world, frontend, worker)


def test_while_nothing_changes_nothing_is_said() -> None:
    world, frontend, worker = start(PolicyName.FIFO)
    frontend.submit(spec(steps=50))
    world.step(2)
    world.commands.clear()
    world.step(20)
    assert not [command for command in world.commands if getattr(command, "peer", None) == worker.peer]


def test_static_starts_a_batch_when_enough_latents_wait() -> None:
    world, frontend, worker = start(PolicyName.STATIC, max_batch=8, static_size=3, static_timeout_s=60.0)
    frontend.submit(spec())
    frontend.submit(spec())
    world.settle()
    assert worker.running == ()
    frontend.submit(spec())
    world.settle()
    assert len(worker.running) == 3


def test_static_starts_a_smaller_batch_when_the_oldest_waited_long_enough() -> None:
    world, frontend, worker = start(PolicyName.STATIC, static_size=3, static_timeout_s=0.5)
    frontend.submit(spec())
    world.settle()
    world.now += 0.3
    frontend.submit(spec())
    world.settle()
    assert world.core.next_wake() <= world.now + 0.2 + 1e-6
    world.now += 0.19
    world.handle(Ticked())
    world.settle()
    assert worker.running == ()
    world.now += 0.02
    world.handle(Ticked())
    world.settle()
    assert len(worker.running) == 2


def test_static_lets_nobody_join_until_the_batch_is_done() -> None:
    world, frontend, worker = start(PolicyName.STATIC, max_batch=8, static_size=2, static_timeout_s=0.0)
    first = frontend.submit(spec(images=2, steps=5))
    world.step(2)
    second = frontend.submit(spec(steps=2))
    world.step(2)
    assert running(world, frontend, worker) == [first, first]
    world.step(1)
    assert running(world, frontend, worker) == []
    world.step(2)
    assert running(world, frontend, worker) == [second]


def test_static_keeps_a_request_together() -> None:
    world, frontend, worker = start(PolicyName.STATIC, max_batch=8, static_size=4, static_timeout_s=60.0)
    first = frontend.submit(spec(images=3))
    frontend.submit(spec(images=2))
    world.settle()
    assert running(world, frontend, worker) == [first] * 3


def test_static_runs_a_job_of_more_images_than_its_size_in_a_batch_of_its_own() -> None:
    world, frontend, worker = start(PolicyName.STATIC, max_batch=8, static_size=2, static_timeout_s=0.0)
    big = frontend.submit(spec(images=5))
    world.settle()
    assert running(world, frontend, worker) == [big] * 5


def test_static_runs_a_job_of_more_images_than_the_worker_can_step_in_parts() -> None:
    world, frontend, worker = start(PolicyName.STATIC, max_batch=4, static_size=2, static_timeout_s=0.0)
    call = frontend.submit(spec(images=10))
    world.run()
    assert frontend.kinds(call)[-1] == "Ended"
    assert sorted({len(batch) for batch in worker.batches}) == [2, 4]


def test_static_mixes_no_keys() -> None:
    world, frontend, worker = start(PolicyName.STATIC, max_batch=8, static_size=2, static_timeout_s=0.1)
    for width in (64, 128, 64, 128):
        frontend.submit(spec(width=width))
    world.run()
    keys = {frontend.job(call): 64 if call % 2 else 128 for call in (1, 2, 3, 4)}
    assert all(len({keys[name.job] for name in batch}) == 1 for batch in worker.batches)
    assert [len(batch) for batch in worker.batches] == [2] * 8


def test_static_is_not_held_up_by_a_job_that_was_set_aside() -> None:
    world, frontend, worker = start(PolicyName.STATIC, static_size=2, static_timeout_s=0.0)
    left = frontend.submit(spec(steps=9))
    world.step(2)
    frontend.leave(left)
    after = frontend.submit(spec())
    world.settle()
    assert running(world, frontend, worker) == [after]
