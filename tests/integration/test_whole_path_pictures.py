"""Pictures and adapters on a request's whole path through real processes: client, frontend, scheduler, worker, and back."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from collodion.client import (
    Accepted,
    AsyncClient,
    Failed,
    Finished,
    InvalidRequest,
    JobState,
    NotFound,
    Progress,
    RequestIdReused,
)

ADAPTERS = "--simulated-adapters=ink,wool:whole,glow:embedding"
GREEN = PIL.Image.new("RGB", (96, 64), (0, 255, 0))


def mask(size: tuple[int, int] = (48, 32)) -> PIL.Image.Image:
    """White on the right half."""
    made = PIL.Image.new("L", size)
    made.paste(255, (size[0] // 2, 0, *size))
    return made


def uploads(stack: Any) -> list[Path]:
    return sorted((stack.artifacts / "uploads").glob("*"))


def test_a_picture_begins_from_another_keeps_what_is_masked_and_says_how_it_was_drawn(stack: Any) -> None:
    asked: dict[str, Any] = {"steps": 10, "seed": 3, "strength": 0.7}
    with stack.start_all().client() as client:
        plain = client.generate("a fox", **asked | {"strength": 1.0}, init_image=GREEN)
        told = []
        drawn = client.generate("a fox", init_image=GREEN, mask_image=mask(), on_progress=told.append, **asked)
    image = drawn.images[0]
    assert image.pil.size == (96, 64)
    assert image.pil.getpixel((10, 30)) == (0, 255, 0)
    red, green, blue = plain.images[0].pil.getpixel((80, 30))
    mixed = (0.7 * red, 0.7 * green + 0.3 * 255, 0.7 * blue)
    assert image.pil.getpixel((80, 30)) == pytest.approx(mixed, abs=1)

    assert {event.steps for event in told} == {7}
    assert max(event.step for event in told) == 7
    parameters = image.parameters
    assert (parameters.steps, parameters.steps_run, parameters.strength) == (10, 7, 0.7)
    assert {f"{parameters.init_image_sha256}.png", f"{parameters.mask_image_sha256}.png"} == {
        path.name for path in uploads(stack)
    }
    assert "Denoising strength: 0.7" in image.pil.info["parameters"]


def test_adapters_of_a_prompt_are_echoed_and_draw_the_same_picture_again(
    stack: Any, eventually: Callable[..., Any]
) -> None:
    size: Any = {"width": 64, "height": 64, "steps": 3}
    with stack.start_all(ADAPTERS).client() as client:
        eventually(lambda: _takes(client, "ink"), "the frontend knows the adapters")
        first = client.generate("a fox <lora:ink:0.7><lora:wool>", prompt_syntax="weighted", **size).images[0]
        said = first.parameters
        assert [(lora.name, lora.scale) for lora in said.loras] == [("ink", 0.7), ("wool", 1.0)]
        again = client.generate(
            said.prompt, seed=said.seed, loras=said.loras, prompt_syntax=said.prompt_syntax, **size
        ).images[0]
        without = client.generate(said.prompt, seed=said.seed, prompt_syntax=said.prompt_syntax, **size).images[0]
        assert again.pil.tobytes() == first.pil.tobytes() != without.pil.tobytes()
        with pytest.raises(NotFound, match="did you mean ink"):
            client.generate("a fox", loras=["imk"], **size)
        with pytest.raises(InvalidRequest, match="loras"):
            client.generate("a fox", loras=["glow"], **size)


def _takes(client: Any, adapter: str) -> bool:
    try:
        client.submit("known?", loras=[adapter], steps=1, width=8, height=8)
    except NotFound:
        return False
    return True


def test_the_asyncio_client_begins_from_pictures_too(stack: Any, tmp_path: Path) -> None:
    GREEN.save(tmp_path / "green.png")

    async def both(address: str) -> list[Any]:
        async with AsyncClient(address) as client:
            return await asyncio.gather(
                *(client.generate("a fox", seed=1, steps=4, init_image=one) for one in (GREEN, tmp_path / "green.png"))
            )

    stack.start_all()
    first, second = asyncio.run(both(stack.address))
    assert first.images[0].sha256 == second.images[0].sha256
    assert len(uploads(stack)) == 1


def test_the_same_request_with_the_same_picture_is_the_same_job(stack: Any) -> None:
    request_id = "9b2f9c4e-0f6a-4d0c-8d1f-000000000001"
    with stack.start_all().client() as client:
        jobs = [client.submit("a fox", init_image=GREEN, steps=4, request_id=request_id) for _ in range(2)]
        assert jobs[0].job_id == jobs[1].job_id
        with pytest.raises(RequestIdReused):
            client.submit("a fox", init_image=mask(), steps=4, request_id=request_id)


def test_who_hung_up_comes_back_to_a_job_that_begins_from_a_picture(stack: Any, eventually: Callable[..., Any]) -> None:
    with stack.start_all("--simulated-step-ms=1:20").client() as client:
        events = client.stream("a fox", init_image=GREEN, steps=75, strength=0.8)
        job_id = next(event.job_id for event in events if isinstance(event, Progress) and event.step >= 3)
        events.close()
        eventually(lambda: client.get(job_id).state is JobState.PARKED, "the job is parked")
        again = list(client.watch(job_id))
    assert {event.steps for event in again if isinstance(event, Progress)} == {60}


def test_what_waiting_jobs_begin_from_is_not_pruned_and_what_is_lost_is_told(
    stack: Any, eventually: Callable[..., Any]
) -> None:
    stack.start("scheduler", "--retention-s=0.1", "--prune-s=0.1")
    stack.start("frontend-0")
    with stack.client() as client:
        stack.start("worker-0")
        eventually(client.models, "a model is known")
        stack.terminate("worker-0")
        kept = client.submit("a fox", init_image=GREEN, steps=4)
        lost = client.submit("a fox", init_image=mask(), steps=4)
        needed = {stack.artifacts / f"uploads/{job.parameters.init_image_sha256}.png" for job in (kept, lost)}
        forgotten = stack.artifacts / "uploads" / "0.png"
        forgotten.write_bytes(b"x")
        for path in (*needed, forgotten):
            _make_old(path)
        eventually(lambda: not forgotten.exists(), "it was pruned")
        assert set(uploads(stack)) == needed
        (stack.artifacts / f"uploads/{lost.parameters.init_image_sha256}.png").unlink()
        watched = [client.watch(job.job_id) for job in (kept, lost)]
        for events in watched:
            assert isinstance(next(events), Accepted)
        stack.start("worker-0")
        assert isinstance(list(watched[0])[-1], Finished)
        failed = list(watched[1])[-1]
    assert isinstance(failed, Failed)
    assert failed.failure.reason == "UPLOAD_LOST"
    assert "send it again" in failed.failure.message


def _make_old(path: Path) -> None:
    os.utime(path, (1, 1))
