"""What makes models fast goes through the scheduler to clients, and a step cache stays what its job asked for."""

from typing import Any

import msgspec
import pytest
from scheduler_world import FakeFrontend, SimulatedWorker, World, model, spec

from collodion.wire.jobs import DeadlinePolicy, JobSpec, ModelStatus, Optimization
from collodion.wire.to_frontend import Refused

XFORMERS = Optimization("attention", "xformers", "32 of 32 attentions")
SDPA = Optimization("attention", "sdpa")


def cached(step_cache: float, **what: Any) -> JobSpec:
    """A job that asks for a step cache."""
    asked = spec(**what)
    return msgspec.structs.replace(asked, parameters=msgspec.structs.replace(asked.parameters, step_cache=step_cache))


class Fleet(World):
    """Workers that have the model `a` in memory and `b` on their disks."""

    def __init__(self) -> None:
        super().__init__()
        self.client: FakeFrontend = self.frontend()

    def device(self, name: str, *optimizations: Optimization, on_disk: str = "b") -> SimulatedWorker:
        worker = SimulatedWorker(
            name,
            models=(model("a"), model("b")),
            on_disk=set(on_disk),
            sizes={"a": 1, "b": 1},
            optimizations={"a": optimizations},
        )
        self.workers.append(worker)
        worker.beat()
        self.settle()
        return worker

    def status(self, name: str) -> ModelStatus:
        assert self.client.catalogue is not None
        return next(status for status in self.client.catalogue.statuses if status.name == name)


def test_clients_are_told_what_makes_a_model_fast_that_is_in_memory() -> None:
    world = Fleet()
    world.device("one", XFORMERS)
    assert world.status("a").optimizations == (XFORMERS,)
    assert world.status("b").optimizations == ()


def test_what_comes_to_be_while_the_model_runs_is_told_with_the_next_state() -> None:
    world = Fleet()
    worker = world.device("one", XFORMERS)
    graphs = Optimization("cuda_graphs", "on", "6 captured")
    worker.optimizations["a"] = (XFORMERS, graphs)
    worker.beat()
    world.settle()
    assert world.status("a").optimizations == (XFORMERS, graphs)


@pytest.mark.parametrize("names", [("alpha", "beta"), ("beta", "alpha")])
def test_of_workers_that_differ_the_first_by_name_is_told_whichever_said_it_last(names: tuple[str, str]) -> None:
    world = Fleet()
    workers = {name: world.device(name, XFORMERS if name == "alpha" else SDPA) for name in names}
    for name in (*names, *reversed(names)):
        workers[name].beat()
        world.settle()
        assert world.status("a").optimizations == (XFORMERS,)


def test_of_workers_only_one_that_has_the_model_in_memory_is_told() -> None:
    world = Fleet()
    world.device("alpha", XFORMERS, on_disk="ab")
    assert world.status("a").optimizations == ()
    world.device("beta", SDPA)
    assert world.status("a").optimizations == (SDPA,)


def test_a_worker_that_is_lost_takes_its_word_with_it() -> None:
    world = Fleet()
    first = world.device("alpha", XFORMERS)
    world.device("beta", SDPA)
    first.leave()
    world.settle()
    assert world.status("a").optimizations == (SDPA,)


def test_load_model_answers_with_them_too() -> None:
    world = Fleet()
    world.device("one", XFORMERS)
    call = world.client.load("a")
    world.settle()
    assert world.client.answers[call].status.optimizations == (XFORMERS,)


# ------------------------------------------------------------------ step caches


def test_a_job_that_is_given_fewer_steps_keeps_its_step_cache() -> None:
    world = World()
    world.core.costs.load("", "shapes/64x64", {"step": {1: 0.01, 4: 0.02}, "encode": {1: 0.01}, "decode": {1: 0.01}})
    frontend = world.frontend()
    worker = world.worker()
    world.settle()
    frontend.submit(cached(0.15, steps=100, slo_s=0.5, deadline_policy=DeadlinePolicy.DEGRADE, min_steps=2))
    world.settle()
    (accepted,) = world.core.book.live.values()
    granted = accepted.spec.parameters
    assert granted.steps < 100
    assert granted.step_cache == 0.15
    assert [order.step_cache for order in worker.orders.values()] == [0.15]


@pytest.mark.parametrize("step_cache", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_step_cache_out_of_its_range_is_refused_even_if_a_frontend_let_it_pass(step_cache: float) -> None:
    world = World()
    frontend = world.frontend()
    world.worker()
    world.settle()
    call = frontend.submit(cached(step_cache))
    world.settle()
    answer = frontend.answers[call]
    assert isinstance(answer, Refused)
    assert "step_cache" in answer.message
