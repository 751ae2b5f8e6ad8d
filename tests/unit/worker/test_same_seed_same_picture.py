"""Every sampler offered, against diffusers' StableDiffusionPipeline: same seed, same picture."""

import itertools

import numpy as np
import pytest

from collodion.worker.models import EMBEDDED
from collodion.worker.sampling.catalog import SAMPLERS

CASES = {
    f"{sampler}-{steps}-{'guided' if guided else 'plain'}": {
        "sampler": sampler,
        "steps": steps,
        "guidance_scale": 6.5 if guided else 1.0,
        "negative_prompt": "blue, small" if guided else "",
        "prompt": f"a {('red', 'green', 'yellow')[number % 3]} circle",
        "seed": 100 + number,
    }
    for number, (sampler, steps, guided) in enumerate(itertools.product(SAMPLERS, (4, 20, 50), (True, False)))
}

SHAPES_CASES = {
    case: {**CASES[case], "model": "shapes", "width": 32, "height": 32}
    for case in (
        "ddim-20-guided",
        "dpmpp_2m-20-guided",
        "euler_a-20-plain",
        "heun-4-guided",
        "pndm-4-plain",
        "unipc-4-guided",
    )
}


@pytest.fixture(scope="module")
def drawn(tiny, drive, spy):
    """All cases at once, in mixed batches: pictures by case, latents by seed."""
    spied = spy(tiny)
    return drive(spied, max_batch=len(CASES), decode_batch=32, encode_batch=32).draw(CASES), spied.latents


@pytest.fixture(scope="module")
def shapes_drawn(shapes, drive, spy):
    """The same of the embedded model."""
    spied = spy(shapes)
    return drive(spied).draw(SHAPES_CASES), spied.latents


def check(pictures, latents, case, expected):
    latent, picture = expected
    error = float((latents[CASES[case]["seed"]] - latent).abs().max() / latent.abs().max())
    assert error < 1e-4
    assert np.abs(pictures[case].astype(int) - np.round(picture * 255).astype(int)).max() <= 1


@pytest.mark.parametrize("case", CASES)
def test_a_latent_in_a_crowd_is_the_one_that_diffusers_draws_alone(case, drawn, reference, diffusers_draws):
    check(*drawn, case, diffusers_draws(reference, CASES[case]))


@pytest.mark.parametrize("case", SHAPES_CASES)
def test_the_embedded_model_draws_what_diffusers_draws_with_it(case, shapes_drawn, shapes_reference, diffusers_draws):
    check(*shapes_drawn, case, diffusers_draws(shapes_reference, SHAPES_CASES[case]))


def test_prompt_guidance_and_seed_all_matter_to_the_tiny_model(reference, diffusers_draws):
    base = {"sampler": "ddim", "steps": 4, "guidance_scale": 6.5, "negative_prompt": "", "prompt": "red", "seed": 1}
    changes = ({}, {"prompt": "green"}, {"negative_prompt": "red"}, {"guidance_scale": 2.0}, {"seed": 2})
    latents = [diffusers_draws(reference, {**base, **change})[0] for change in changes]
    for changed in latents[1:]:
        assert float((changed - latents[0]).abs().max() / latents[0].abs().max()) > 0.01


def test_the_embedded_model_is_there():
    assert (EMBEDDED / "model_index.json").exists()
