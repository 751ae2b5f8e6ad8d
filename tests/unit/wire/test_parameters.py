"""What is read off a job's parameters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collodion.wire.jobs import Parameters


def parameters(steps: int, strength: float, init_image: str = "uploads/a.png") -> Parameters:
    return Parameters(
        model="shapes",
        prompt="",
        negative_prompt="",
        width=64,
        height=64,
        steps=steps,
        sampler="ddim",
        guidance_scale=4.0,
        seed=7,
        images=1,
        init_image=init_image,
        strength=strength,
    )


def test_without_a_picture_to_begin_from_every_step_is_run() -> None:
    asked = parameters(20, 0.5, init_image="")
    assert (asked.steps_run, asked.skipped_steps, asked.least_steps) == (20, 0, 1)


@pytest.mark.parametrize(("strength", "least"), [(1.0, 1), (0.99, 2), (0.5, 2), (0.1, 10), (0.3, 4), (1 / 3, 3)])
def test_so_many_steps_have_to_be_asked_for_that_one_is_run(strength: float, least: int) -> None:
    assert parameters(50, strength).least_steps == least


@given(st.floats(1e-6, 1.0))
def test_with_the_least_steps_one_is_run_and_with_fewer_none(strength: float) -> None:
    least = parameters(1, strength).least_steps
    assert parameters(least, strength).steps_run >= 1
    assert least == 1 or parameters(least - 1, strength).steps_run == 0
