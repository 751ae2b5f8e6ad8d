"""A request's whole path through real processes: client, frontend, scheduler, worker, and back."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from collodion.client import (
    Accepted,
    Cancelled,
    Finished,
    ImageReady,
    InvalidRequest,
    JobCancelled,
    JobState,
    NotFound,
    Preview,
    Progress,
    StageChanged,
)

SLOW = "--simulated-step-ms=1:20"  # long enough for a test to act while a job runs


def test_a_job_is_told_from_acceptance_to_its_pictures(stack: Any) -> None:
    with stack.start_all().client() as client:
        events = list(client.stream("a fox", steps=12, seed=7, images=2, preview_interval=4, width=64, height=64))
    assert isinstance(events[0], Accepted)
    assert isinstance(events[-1], Finished)
    for index in (0, 1):
        own = [event for event in events if getattr(event, "index", None) == index]
        steps = [event.step for event in own if isinstance(event, Progress)]
        assert steps == sorted(set(steps))
        assert steps[-1] == 12
        stages = [event.stage.value for event in own if isinstance(event, StageChanged)]
        assert [stage for stage in stages if stage in ("denoising", "decoding")] == ["denoising", "decoding"]
    assert any(isinstance(event, Preview) and event.pil.size[0] > 0 for event in events)
    images = [event.image for event in events if isinstance(event, ImageReady)]
    assert sorted((image.index, image.seed) for image in images) == [(0, 7), (1, 8)]
    assert all(hashlib.sha256(image.data).hexdigest() == image.sha256 for image in images)
    assert stack.stop() == {"frontend-0": 0, "worker-0": 0, "scheduler": 0}


def test_the_parameters_that_come_back_draw_the_same_picture(stack: Any) -> None:
    with stack.start_all().client() as client:
        first = client.generate("a fox", steps=3, images=2, width=64, height=64)
        second = first.images[1]
        again = client.generate(second.parameters.prompt, steps=3, width=64, height=64, seed=second.parameters.seed)
        other = client.generate(second.parameters.prompt, steps=3, width=64, height=64, seed=second.parameters.seed + 1)
    assert again.images[0].pil.tobytes() == second.pil.tobytes() != other.images[0].pil.tobytes()


def test_a_step_cache_is_refused_by_a_model_that_takes_none_and_0_is_as_if_it_was_not_asked_for(stack: Any) -> None:
    size: Any = {"steps": 2, "seed": 5, "width": 64, "height": 64}
    with stack.start_all().client() as client:
        model = client.model("simulated")
        assert (model.step_cache, model.status.optimizations) == (False, ())
        with pytest.raises(InvalidRequest, match="step_cache"):
            client.generate("a fox", step_cache=0.1, **size)
        image = client.generate("a fox", step_cache=0.0, **size).images[0]
        plain = client.generate("a fox", **size).images[0]
    assert image.parameters.step_cache == 0.0
    assert image.sha256 == plain.sha256
    assert "Step cache" not in image.pil.info["parameters"]


def test_a_submitted_job_runs_unwatched_and_can_be_found_watched_and_downloaded(stack: Any) -> None:
    with stack.start_all().client() as client:
        job = client.submit("a fox", steps=5, width=64, height=64, labels={"team": "red"})
        events = list(client.watch(job.job_id))
        assert isinstance(events[-1], Finished)
        again = list(client.watch(job.job_id))  # the past of an ended job, once more
        kinds = [type(event) for event in again]
        assert (kinds[0], kinds[-1], kinds.count(ImageReady)) == (Accepted, Finished, 1)
        assert [found.job_id for found in client.list(labels={"team": "red"})] == [job.job_id]
        assert client.download(job.job_id, 0).sha256 == client.get(job.job_id).images[0].sha256
    with stack.client(tenant="stranger") as stranger:
        assert list(stranger.list()) == []
        with pytest.raises(NotFound):
            stranger.get(job.job_id)


def test_a_cancelled_job_ends_for_everybody_and_frees_its_worker(stack: Any, eventually: Callable[..., Any]) -> None:
    with stack.start_all(SLOW).client() as client, pytest.raises(JobCancelled):
        client.generate("a fox", steps=100, width=64, height=64, on_progress=lambda event: client.cancel(event.job_id))
    eventually(lambda: _latents_held(stack) == 0, "the worker let the latent go")


def test_hanging_up_parks_a_job_and_its_grace_cancels_it(stack: Any, eventually: Callable[..., Any]) -> None:
    stack.start("scheduler", "--grace-s=0.5")
    stack.start("frontend-0")
    stack.start("worker-0", SLOW)
    with stack.client() as client:
        eventually(client.models, "a model is known")
        job_id = _hang_up_while_running(client)
        eventually(lambda: client.get(job_id).state is JobState.PARKED, "the job is parked")
        eventually(lambda: client.get(job_id).state is JobState.CANCELLED, "the grace is over")
        assert isinstance(list(client.watch(job_id))[-1], Cancelled)


def test_who_comes_back_within_the_grace_finds_the_job_where_it_was(stack: Any, eventually: Callable[..., Any]) -> None:
    with stack.start_all(SLOW).client() as client:
        job_id = _hang_up_while_running(client)
        eventually(lambda: client.get(job_id).state is JobState.PARKED, "the job is parked")
        before = client.get(job_id).progress[0].step
        events = list(client.watch(job_id))
        assert isinstance(events[-1], Finished)
        assert min(event.step for event in events if isinstance(event, Progress)) >= before > 0


def test_a_detached_job_survives_its_client(stack: Any) -> None:
    with stack.start_all(SLOW).client() as client:
        job_id = _hang_up_while_running(client, detach=True)
        assert isinstance(list(client.watch(job_id))[-1], Finished)


def test_an_urgent_handful_joins_a_long_job_instead_of_waiting_for_it(stack: Any) -> None:
    with stack.start_all(SLOW).client() as client, ThreadPoolExecutor(1) as background:
        long = client.submit("long", steps=150, width=64, height=64)
        short = background.submit(client.generate, "short", steps=4, width=64, height=64)
        short.result(30)
        assert client.get(long.job_id).state is JobState.RUNNING
        client.cancel(long.job_id)


def test_the_static_policy_runs_whole_requests_and_lets_nobody_join(stack: Any, eventually: Callable[..., Any]) -> None:
    stack.start("scheduler", "--policy=static", "--static-size=2", "--static-timeout-s=0.2")
    stack.start("frontend-0")
    stack.start("worker-0", SLOW)
    with stack.client() as client:
        eventually(client.models, "a model is known")
        long = [client.submit("long", steps=40, width=64, height=64).job_id for _ in range(2)]
        eventually(lambda: client.get(long[0]).state is JobState.RUNNING, "the batch runs")
        late = client.generate("late", steps=2, width=64, height=64)
        ended = {job.job_id: job.end_time for job in client.list()}
    assert max(ended[job_id] for job_id in long) < ended[late.job.job_id]


def test_a_thousand_jobs_at_once_all_end_with_their_own_picture(stack: Any, eventually: Callable[..., Any]) -> None:
    with stack.start_all("--simulated-step-ms=1:1").client() as client:

        def submit(seed: int) -> str:
            return client.submit("crowd", steps=2, seed=seed, width=16, height=16).job_id

        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(submit, range(1000)))
        assert len(set(ids)) == 1000

        def ended() -> bool:
            name = 'collodion_scheduler_jobs_ended_total{outcome="finished",tier="standard"}'
            return stack.metrics("scheduler").get(name) == 1000

        eventually(ended, "a thousand jobs end", 90)
        jobs = {job.job_id: job for job in client.list(page_size=1000)}
    assert jobs.keys() == set(ids)
    assert {job.images[0].seed for job in jobs.values()} == set(range(1000))


def _hang_up_while_running(client: Any, **options: Any) -> str:
    events = client.stream("a fox", steps=60, width=64, height=64, **options)
    job_id = next(event.job_id for event in events if isinstance(event, Progress) and event.step >= 3)
    events.close()
    return job_id


def _latents_held(stack: Any) -> float:
    samples = stack.metrics("worker-0").items()
    return sum(value for name, value in samples if name.startswith("collodion_worker_latents"))
