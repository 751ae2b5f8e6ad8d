"""The core leaves nothing that only a full garbage collection would free."""

import gc
from collections.abc import Iterator

import pytest
from scheduler_world import World, spec

from collodion.scheduler.config import PolicyName
from collodion.scheduler.garbage import keep_collections_short
from collodion.scheduler.job import Job, Latent


@pytest.fixture
def _collector() -> Iterator[None]:
    thresholds = gc.get_threshold()
    gc.collect()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.unfreeze()
    gc.set_threshold(*thresholds)


@pytest.mark.usefixtures("_collector")
@pytest.mark.parametrize("policy", PolicyName)
def test_jobs_that_end_leave_no_circles(policy: PolicyName) -> None:
    world = World(policy=policy, static_timeout_s=0.0)
    world.worker()
    frontend = world.frontend()
    gc.set_debug(gc.DEBUG_SAVEALL)
    for _ in range(3):
        frontend.submit(spec(images=2, steps=3))
    cancelled = frontend.submit(spec(steps=9))
    world.step(2)
    frontend.cancel(frontend.job(cancelled))
    world.run()
    gc.collect()
    assert [one for one in gc.garbage if isinstance(one, Job | Latent)] == []


@pytest.mark.usefixtures("_collector")
def test_what_was_there_at_the_start_is_not_collected_again() -> None:
    keep_collections_short()
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold()[2] > 10_000
