"""What makes a model fast is told to the scheduler and counted, also what comes to be only while it runs."""

import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from collodion.wire.jobs import Optimization
from collodion.wire.to_worker import ResidencyWish
from collodion.worker.config import WorkerConfig
from collodion.worker.families.simulated import Simulated
from collodion.worker.holdings import Held
from collodion.worker.metrics import WorkerMetrics
from collodion.worker.models import Library, open_library
from collodion.worker.optimize.observer import ObserverFor
from collodion.worker.process import Worker
from collodion.worker.reports import Reporter
from collodion.worker.residency import Residents
from collodion.worker.shelf import Contents, ShelvedModel

ATTENTION = Optimization("attention", "xformers", "32 of 32 attentions")


def graphs(count: int) -> Optimization:
    return Optimization("cuda_graphs", "on", f"{count} captured")


class Told(Residents):
    """Counts what it would ring the bell for."""

    def __init__(self) -> None:
        self.bells = 0
        super().__init__(on_news=self._ring)

    def _ring(self) -> None:
        self.bells += 1


@pytest.fixture
def fast() -> Simulated:
    pipeline = Simulated("fast", WorkerConfig())
    pipeline.optimizations = (ATTENTION, graphs(0))
    return pipeline


@pytest.fixture
def models(fast: Simulated) -> Told:
    models = Told()
    models.shelve(Contents((ShelvedModel("fast", fast.info), ShelvedModel("cold", fast.info))))
    models.keep("fast", fast, 0.1)
    return models


def told(models: Residents) -> dict[str, tuple[Optimization, ...]]:
    return {status.name: status.optimizations for status in models.standing().statuses}


def test_a_resident_models_optimizations_are_told_and_no_others(models: Told) -> None:
    assert told(models) == {"fast": (ATTENTION, graphs(0)), "cold": ()}


def test_what_is_made_ready_later_is_news_and_told_as_it_is_then(models: Told, fast: Simulated) -> None:
    version, bells = models.standing().version, models.bells
    fast.optimizations = (ATTENTION, graphs(3))
    models.note_optimizations("fast")
    standing = models.standing()
    assert (standing.version, models.bells) == (version + 1, bells + 1)
    assert told(models)["fast"] == (ATTENTION, graphs(3))


def test_a_model_that_is_still_being_loaded_makes_no_news_of_what_it_makes_ready(models: Told) -> None:
    version, bells = models.version, models.bells
    models.note_optimizations("cold")
    models.note_optimizations("nobody's")
    assert (models.version, models.bells) == (version, bells)


def test_a_model_that_left_has_no_optimizations_any_more(models: Told) -> None:
    models.take(ResidencyWish(scheduler="s", worker="w", number=1, models=()))
    models.turn(())
    assert told(models) == {"fast": (), "cold": ()}


def test_the_next_state_for_the_scheduler_has_what_was_noted(models: Told, fast: Simulated) -> None:
    reporter = Reporter("me", WorkerConfig(), "cpu", "cpu: a fast one", models)
    held = Held()
    reporter.told(held, reporter.state(held))
    assert not reporter.models_are_news
    fast.optimizations = (graphs(8),)
    models.note_optimizations("fast")
    assert reporter.models_are_news
    (status,) = [one for one in reporter.state(held).statuses if one.name == "fast"]
    assert status.optimizations == (graphs(8),)


def test_notes_from_many_threads_are_each_a_version(models: Told) -> None:
    version = models.version
    threads = [threading.Thread(target=lambda: [models.note_optimizations("fast") for _ in range(50)]) for _ in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert models.version == version + 200


# ------------------------------------------------------------------ counted


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"collodion_worker_{name}", labels)


def test_what_the_fast_engine_does_is_counted_by_model() -> None:
    metrics = WorkerMetrics()
    ready: list[str] = []
    observer = metrics.observer("a", lambda: ready.append("a"))
    other = metrics.observer("b")
    observer.fell_back("not_captured")
    observer.fell_back("not_captured")
    observer.fell_back("not_compiled")
    observer.made_ready("captured", 1.5)
    observer.made_ready("captured", 0.5)
    other.made_ready("compiled", 9.0)
    observer.recompiled()
    observer.reused(3)
    observer.reused(4)
    registry = metrics.registry
    assert value(registry, "eager_fallbacks_total", model="a", reason="not_captured") == 2
    assert value(registry, "eager_fallbacks_total", model="a", reason="not_compiled") == 1
    assert value(registry, "made_ready_total", model="a", what="captured") == 2
    assert value(registry, "made_ready_seconds_total", model="a", what="captured") == 2.0
    assert value(registry, "made_ready_seconds_total", model="b", what="compiled") == 9.0
    assert value(registry, "recompilations_total", model="a") == 1
    assert value(registry, "reused_evaluations_total", model="a") == 7
    assert ready == ["a", "a"]


def test_an_observed_model_begins_with_no_recompilations_so_that_the_first_is_an_increase() -> None:
    metrics = WorkerMetrics()
    metrics.observer("a")
    assert value(metrics.registry, "recompilations_total", model="a") == 0
    assert value(metrics.registry, "reused_evaluations_total", model="a") == 0


def test_the_worker_counts_and_tells_what_a_model_of_its_makes_ready(tmp_path: Path) -> None:
    seen: list[ObserverFor] = []

    def opened(config: WorkerConfig, observer_for: ObserverFor) -> Library:
        seen.append(observer_for)
        return open_library(config, observer_for)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("collodion.worker.process.open_library", opened)
        worker = Worker(WorkerConfig(run_dir=tmp_path, artifacts=tmp_path, models=("fast=simulated",), metrics_port=0))
    version = worker.models.version
    (observer_for,) = seen
    observer_for("fast").made_ready("captured", 0.25)
    assert value(worker.metrics.registry, "made_ready_total", model="fast", what="captured") == 1
    assert worker.models.version == version + 1
    worker.end()
    assert worker.run() == 0  # closes what it opened
