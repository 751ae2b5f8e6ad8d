"""Runs one scheduler, as configured, on one instance."""

import time
from collections.abc import Callable

from collodion.scheduler.config import SchedulerConfig
from simulation.instance import Instance
from simulation.queues import thinned
from simulation.result import Result
from simulation.world import ORIGIN, Conditions, World


def run(
    instance: Instance,
    config: SchedulerConfig,
    conditions: Conditions = Conditions(),
    on_decided: Callable[[int], None] = lambda _: None,
) -> Result:
    """Simulates to the end. `on_decided` hears how many requests have an outcome. Raises Stalled if the scheduler forgets jobs."""
    began = time.perf_counter()
    world = World(instance, config, conditions, on_decided)
    world.run()
    return Result(
        policy=config.policy.value,
        instance=instance,
        records=tuple(world.ledger.records),
        evaluations=world.recorder.evaluations,
        step_batches=world.recorder.step_batches,
        busy_s=world.recorder.busy_s,
        ended_s=world.now - ORIGIN,
        wall_s=time.perf_counter() - began,
        handlings=world.meter.handlings(),
        in_system=tuple(thinned(world.queues.in_system)),
        segments=tuple(world.recorder.segments),
    )
