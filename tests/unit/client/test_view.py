"""What a person sees of a job, on terminals of every kind."""

import io

import PIL.Image
import pytest
from rich.console import Console

from collodion.client import requests
from collodion.client.cli.halfblocks import HalfBlocks, can_show
from collodion.client.cli.view import View
from collodion.client.following import Following
from collodion.client.retries import RetryPolicy
from collodion.v1 import job_pb2
from tests.integration import fake_server as fake

FAILURE = job_pb2.Failure(code=13, reason="NON_FINITE_LATENT", message="it went to infinity")


def shown(
    console: Console, images: int, messages: list[job_pb2.JobEvent], accepted: job_pb2.JobEvent | None = None
) -> str:
    following = Following(requests.watch("x"), RetryPolicy(), RetryPolicy())
    with View(console) as view:
        for message in [accepted or fake.accepted(images), *messages]:
            for event in following.hear(message):
                view.take(event)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def terminal(width: int = 80, **more: object) -> Console:
    known = {"force_terminal": True, "color_system": "truecolor", "legacy_windows": False, "height": 30, "_environ": {}}
    return Console(file=io.StringIO(), width=width, **known | more)  # type: ignore[arg-type]


EVENTS = [
    fake.event(stage=job_pb2.StageChanged(index=0, stage=job_pb2.STAGE_DENOISING)),
    fake.progress(2),
    fake.preview(2),
    fake.event(image_failed=job_pb2.ImageFailed(index=1, failure=FAILURE)),
    fake.image(0),
    fake.finished(),
]


def test_a_terminal_gets_a_bar_for_each_image_and_the_picture_in_colour() -> None:
    screen = shown(terminal(), 2, EVENTS)
    assert "image 0 done" in screen
    assert "image 1 stopped" in screen
    assert "▀" in screen
    assert "48;2;200;30;30" in screen
    assert "image 1 failed: it went to infinity (NON_FINITE_LATENT)" in screen


@pytest.mark.parametrize("width", [1, 5, 19, 20, 33, 500])
def test_any_width_will_do(width: int) -> None:
    assert "image" in shown(terminal(width), 2, EVENTS).replace("\n", "")


def test_what_begins_from_a_picture_counts_the_steps_that_are_run_and_names_its_adapters() -> None:
    job = fake.job()
    job.parameters.strength = 0.5
    job.parameters.init_image_sha256 = "5e1f"
    job.parameters.loras.add(name="ink", scale=0.8)
    job.parameters.step_cache = 0.1
    accepted = fake.event(accepted=job_pb2.Accepted(job=job))
    done = fake.image()
    done.image.parameters.strength = 0.5
    screen = shown(terminal(120), 1, [done], accepted)
    assert "shapes 8×8, 2 of 4 steps of ddim, seed 7, ink 0.8, step cache 0.1" in screen
    assert "2/2" in screen


def test_many_images_share_one_bar() -> None:
    done = fake.event(stage=job_pb2.StageChanged(index=0, stage=job_pb2.STAGE_DONE))
    screen = shown(terminal(), 16, [done, *EVENTS])
    assert "16 images" in screen
    assert "2/16" in screen, "one arrived, one failed"


def test_where_there_is_no_terminal_there_are_plain_lines_only() -> None:
    lines = shown(Console(file=io.StringIO(), width=80), 2, EVENTS)
    assert "\x1b" not in lines
    assert lines.splitlines()[0].startswith(f"job {fake.JOB_ID}: shapes 8×8, 4 steps of ddim, seed 7")
    assert len(lines.splitlines()) == 2


@pytest.mark.parametrize(
    ("console", "shows"),
    [
        (terminal(), True),
        (terminal(color_system="256"), True),
        (terminal(color_system="standard"), False),
        (terminal(color_system=None), False),
        (terminal(no_color=True), False),
        (terminal(10), False),
        (Console(file=io.StringIO()), False),
    ],
)
def test_pictures_are_shown_only_where_they_can_be(console: Console, shows: bool) -> None:
    assert can_show(console) is shows


@pytest.mark.parametrize(
    ("size", "cells"), [((64, 64), (20, 10)), ((64, 32), (20, 5)), ((1, 512), (1, 10)), ((512, 1), (20, 1))]
)
def test_a_picture_keeps_its_proportions_in_half_blocks(size: tuple[int, int], cells: tuple[int, int]) -> None:
    console = terminal()
    console.print(HalfBlocks(PIL.Image.new("RGB", size), 20, 10))
    assert isinstance(console.file, io.StringIO)
    rows = [line for line in console.file.getvalue().splitlines() if line]
    assert (rows[0].count("▀"), len(rows)) == cells


def test_a_preview_that_cannot_be_read_is_passed_over() -> None:
    garbage = fake.event(preview=job_pb2.Preview(index=0, step=1, mime_type="image/webp", data=b"garbage"))
    assert "image 0" in shown(terminal(), 1, [garbage])
