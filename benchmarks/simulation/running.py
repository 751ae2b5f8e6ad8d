"""Runs one policy on one instance."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from simulation.instance import Instance
from simulation.queues import thinned
from simulation.result import Result
from simulation.world import ORIGIN, Conditions, World


def run(
    instance: Instance,
    policy: str,
    conditions: Conditions = Conditions(),
    overrides: Mapping[str, Any] | None = None,
    on_decided: Callable[[int], None] = lambda _: None,
) -> Result:
    """Simulates to the end. `overrides` are fields of `SchedulerConfig`.

    Raises ValueError for a policy that there is not, and Stalled if the scheduler forgets jobs.
    """
    began = time.perf_counter()
    world = World(instance, policy, conditions, overrides or {}, on_decided)
    world.run()
    return Result(
        policy=policy,
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
