"""What the scheduler shows to Prometheus."""

from prometheus_client import CollectorRegistry
from scheduler_world import World, spec

from collodion.scheduler.metrics import Metrics
from collodion.wire.jobs import Stage


def test_a_stage_that_nothing_is_in_any_more_is_shown_as_empty() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    world = World()
    world.worker()
    world.frontend().submit(spec())
    world.step(2)
    metrics.sample(world.core)
    assert registry.get_sample_value("collodion_scheduler_latents", {"stage": "denoising"}) == 1
    world.run()
    metrics.sample(world.core)
    shown = {stage: registry.get_sample_value("collodion_scheduler_latents", {"stage": stage}) for stage in Stage}
    assert shown == dict.fromkeys(Stage, 0)
