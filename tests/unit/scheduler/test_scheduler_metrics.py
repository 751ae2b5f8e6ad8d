"""What the scheduler shows to Prometheus."""

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from scheduler_world import World, spec

from collodion.scheduler.events import Command
from collodion.scheduler.metrics import Metrics
from collodion.wire.jobs import DeadlinePolicy, Stage


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


def primed() -> tuple[World, Callable[..., float | None]]:
    """A world with one worker of known costs, 0.01 s an evaluation, whose metrics count what is done."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    world = World(grace_s=5.0)
    world.worker(max_batch=1, max_resident=200)
    world.settle()
    world.core.costs.load("cpu", "shapes/64x64", {"step": {1: 0.01}, "decode": {1: 1e-6}}, noise=0.0, weight=1e6)
    carry_out = world.carry_out

    def counted(commands: list[Command]) -> None:
        carry_out(commands)
        for command in commands:
            metrics.done(command)

    world.carry_out = counted  # type: ignore[method-assign]

    def value(name: str, **labels: str) -> float | None:
        metrics.sample(world.core)
        return registry.get_sample_value(f"collodion_scheduler_{name}", labels)

    return world, value


def test_admissions_are_counted_by_what_the_jobs_were_told() -> None:
    world, value = primed()
    frontend = world.frontend()
    for what in (
        spec(steps=40),
        spec(steps=40, tier="batch"),
        spec(steps=40, slo_s=0.2),
        spec(steps=40, slo_s=0.2, deadline_policy=DeadlinePolicy.REFUSE),
        spec(steps=40, slo_s=0.2, deadline_policy=DeadlinePolicy.DEGRADE),
    ):
        frontend.submit(what)
        world.settle()
    assert value("admissions_total", verdict="promised", tier="standard") == 1
    assert value("admissions_total", verdict="no_deadline", tier="batch") == 1
    assert value("admissions_total", verdict="best_effort", tier="standard") == 1
    assert value("admissions_total", verdict="degraded", tier="standard") == 1
    assert value("refusals_total", reason="DEADLINE_INFEASIBLE") == 1


def test_promises_are_counted_by_what_became_of_them() -> None:
    world, value = primed()
    frontend = world.frontend()
    frontend.submit(spec(steps=10, slo_s=30))
    world.run()
    assert value("promises_total", outcome="kept", tier="standard") == 1
    cancelled = frontend.submit(spec(steps=10, slo_s=30))
    world.settle()
    frontend.cancel(frontend.job(cancelled))
    world.settle()
    assert value("promises_total", outcome="cancelled", tier="standard") == 1
    left = frontend.submit(spec(steps=10, slo_s=5))
    world.settle()
    frontend.leave(left)
    world.pass_time(6.0)
    assert value("promises_total", outcome="withdrawn", tier="standard") == 1
    frontend.submit(spec(steps=10, slo_s=5))
    world.settle()
    world.pass_time(6.0)
    world.run()
    assert value("promises_total", outcome="broken", tier="standard") == 1


def test_the_error_of_a_prediction_is_when_it_finished_less_when_that_was_promised() -> None:
    world, value = primed()
    frontend = world.frontend()
    frontend.submit(spec(steps=10, slo_s=30))
    world.settle()
    world.pass_time(1.0)
    world.step(12)
    assert value("prediction_error_seconds_count") == 1
    assert value("prediction_error_seconds_bucket", le="0.5") == 0
    assert value("prediction_error_seconds_bucket", le="2.0") == 1
    assert value("prediction_error_ratio_bucket", le="2.0") == 0, "it was thought to take a tenth of a second"


def test_what_waits_in_lines_is_queued_too() -> None:
    world, value = primed()
    frontend = world.frontend()
    frontend.submit(spec(images=60, steps=10))
    frontend.submit(spec(images=2, steps=10, width=128, tier="batch"))
    world.settle()
    held = sum(len(worker.held) for worker in world.core.fleet.workers.values())
    assert value("queue_latents") == 62 - held
    assert value("queue_promised_latents") == 60 - held
    assert value("jobs_promised") == 1
    assert value("queue_seconds") == pytest.approx(6.0, rel=0.01)
    margin = value("prediction_margin_ratio", device_kind="cpu")
    assert margin is not None
    assert margin >= 0


def test_every_metric_is_documented() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    text = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
    names = [
        family.name.removeprefix("collodion_scheduler_") + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
    ]
    assert [name for name in names if f"`{name}`" not in text] == []
