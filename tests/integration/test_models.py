"""Many models on one device, with real processes and simulated models: loaded on demand, evicted, pinned, failing, killed meanwhile."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from collodion.client import DeadlineInfeasible, JobFailed, ModelUnusable, NotFound, Progress, Residency

# Room for two of them. `a` is there from the start, and may be driven out like the others.
ON_DEMAND = "--on-demand=a=simulated,b=simulated,c=simulated,broken=simulated,huge=simulated"
MODELS = (
    "--models=",
    ON_DEMAND,
    "--simulated-load-ms=100,broken:raise",
    "--simulated-model-mib=8,huge:64",
    "--model-mib=16",
)
LIVELY = ("--beat-s=0.25", "--beats-missed=4")  # so that a death is noticed soon
SMALL = {"width": 64, "height": 64, "steps": 3}


def start(stack: Any, eventually: Callable[..., Any], *flags: str) -> Any:
    stack.start("scheduler", *LIVELY)
    stack.start("frontend-0", *LIVELY)
    stack.start("worker-0", *LIVELY, *MODELS, *flags)
    client = stack.client()
    eventually(client.models, "the frontend knows the models")
    return client


def where(client: Any) -> dict[str, Residency]:
    return {model.name: model.status.residency for model in client.models()}


def resident(client: Any) -> set[str]:
    return {name for name, residency in where(client).items() if residency is Residency.RESIDENT}


def test_models_are_loaded_for_requests_and_the_one_used_longest_ago_makes_room(
    stack: Any, eventually: Callable[..., Any]
) -> None:
    with start(stack, eventually) as client:
        assert resident(client) == set()
        for name in "abac":
            generation = client.generate("a fox", model=name, **SMALL)
            assert generation.images[0].parameters.model == name
        assert resident(client) == {"a", "c"}
        statuses = {model.name: model.status for model in client.models()}
    assert statuses["a"].size_bytes == 8 << 20
    assert statuses["a"].load_s >= 0.1
    samples = stack.metrics("worker-0")
    assert samples['collodion_worker_model_loads_total{outcome="loaded"}'] == 3
    assert samples['collodion_worker_models{residency="resident"}'] == 2
    assert stack.stop() == {"frontend-0": 0, "worker-0": 0, "scheduler": 0}


def test_a_model_is_pinned_by_load_and_let_go_by_unload(stack: Any, eventually: Callable[..., Any]) -> None:
    with start(stack, eventually) as client:
        told: list[float] = []
        loaded = client.load_model("a", timeout_s=20, on_progress=lambda model: told.append(model.status.progress))
        assert (loaded.status.residency, loaded.status.pinned) == (Residency.RESIDENT, True)
        for name in "bcb":
            client.generate("a fox", model=name, **SMALL)
        assert resident(client) == {"a", "b"}
        assert not client.unload_model("a").status.pinned
        eventually(lambda: resident(client) == {"b"}, "a is dropped")
        with pytest.raises(NotFound):
            client.load_model("nowhere")
        with pytest.raises(ModelUnusable, match="huge takes 64 MiB"):
            client.load_model("huge")


def test_a_model_that_cannot_be_loaded_fails_its_jobs_and_nobody_elses(
    stack: Any, eventually: Callable[..., Any]
) -> None:
    with start(stack, eventually) as client:
        with pytest.raises(JobFailed) as failed:
            client.generate("a fox", model="broken", **SMALL)
        assert failed.value.reason == "MODEL_UNUSABLE"
        assert "told to fail" in failed.value.message
        with pytest.raises(ModelUnusable, match="told to fail"):
            client.generate("a fox", model="broken", **SMALL)
        with pytest.raises(ModelUnusable, match="told to fail"):
            client.load_model("broken", timeout_s=20)
        assert where(client)["broken"] is Residency.FAILED
        assert len(client.generate("a fox", model="a", **SMALL).images) == 1


def test_who_wants_a_promise_is_told_when_the_model_is_there(stack: Any, eventually: Callable[..., Any]) -> None:
    with start(stack, eventually, "--simulated-load-ms=500") as client:
        client.generate("a fox", model="a", **SMALL)  # so that what loading takes is known
        with pytest.raises(DeadlineInfeasible, match="has to be loaded first") as refused:
            client.submit("a fox", model="b", deadline_policy="refuse", slo_s=30, **SMALL)
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s > 0
        eventually(lambda: "b" in resident(client), "the refusal has it loaded")
        client.generate("a fox", model="b", deadline_policy="refuse", slo_s=30, **SMALL)


def test_steps_of_one_model_go_on_while_another_is_loaded(stack: Any, eventually: Callable[..., Any]) -> None:
    """The load takes longer than the whole of the other job, which is finished before it."""
    with start(stack, eventually, "--simulated-load-ms=a:100,b:60000") as client, ThreadPoolExecutor(1) as pool:
        client.load_model("a", timeout_s=20)
        waiting = pool.submit(client.generate, "a fox", model="b", **SMALL)
        eventually(lambda: where(client)["b"] is Residency.LOADING, "b is loading")
        events: list[Any] = []
        client.generate("a fox", model="a", width=64, height=64, steps=40, on_event=events.append)
        assert sum(isinstance(event, Progress) for event in events) > 1
        assert where(client)["b"] is Residency.LOADING
        assert not waiting.done()
        (job,) = [job for job in client.list() if job.parameters.model == "b"]
        assert "it waits for the model b to load" in client.why(job.job_id).summary
        client.cancel(job.job_id)
        assert waiting.exception(20) is not None


def test_a_worker_that_is_killed_while_it_loads_loses_nobodys_job(stack: Any, eventually: Callable[..., Any]) -> None:
    with start(stack, eventually, "--simulated-load-ms=60000") as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.generate, "a fox", model="a", **SMALL)
        eventually(lambda: where(client)["a"] is Residency.LOADING, "a is loading")
        stack.kill("worker-0")
        stack.start("worker-0", *LIVELY, *MODELS)
        assert len(waiting.result(30).images) == 1


def test_a_worker_that_dies_of_loading_is_not_the_end(stack: Any, eventually: Callable[..., Any]) -> None:
    with start(stack, eventually, "--simulated-load-ms=b:crash") as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.generate, "a fox", model="b", **SMALL)
        eventually(lambda: stack.has_ended("worker-0"), "the worker has crashed")
        stack.kill("worker-0")
        stack.start("worker-0", *LIVELY, *MODELS)
        assert len(waiting.result(30).images) == 1


def test_a_new_scheduler_begins_with_what_is_in_memory(stack: Any, eventually: Callable[..., Any]) -> None:
    with start(stack, eventually) as client:
        for name in "ab":
            client.generate("a fox", model=name, **SMALL)
        stack.kill("scheduler")
        stack.start("scheduler", *LIVELY)
        eventually(lambda: _known(client) and resident(client) == {"a", "b"}, "the new scheduler knows the worker")
        client.generate("a fox", model="b", **SMALL)
        assert resident(client) == {"a", "b"}
        client.generate("a fox", model="c", **SMALL)
        assert resident(client) == {"b", "c"}
        samples = stack.metrics("worker-0")
    assert samples['collodion_worker_model_loads_total{outcome="loaded"}'] == 3


def test_two_workers_share_models_and_each_keeps_to_its_own(stack: Any, eventually: Callable[..., Any]) -> None:
    with start(stack, eventually, "--model-mib=8") as client:
        stack.start("worker-1", *LIVELY, *MODELS, "--model-mib=8")
        eventually(lambda: client.load_model("a", timeout_s=20), "a is there")
        eventually(lambda: client.load_model("b", timeout_s=20), "b is there")
        for name in "abba":
            client.generate("a fox", model=name, **SMALL)
        assert resident(client) == {"a", "b"}
        loads = [stack.metrics(name)['collodion_worker_model_loads_total{outcome="loaded"}'] for name in _WORKERS]
        assert loads == [1, 1]
        with pytest.raises(ModelUnusable, match="c takes 8"):
            client.generate("a fox", model="c", **SMALL)


_WORKERS = ("worker-0", "worker-1")


def _known(client: Any) -> bool:
    from collodion.client import CollodionError

    try:
        return bool(client.models())
    except CollodionError:
        return False
