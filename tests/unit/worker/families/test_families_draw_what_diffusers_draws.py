"""Every family against diffusers' pipeline: same seed, same picture, in a crowd of others."""

import numpy as np
import pytest
import torch

DIFFUSION = ("euler_a", "dpmpp_2m", "heun")
FLOW = ("euler", "dpmpp_2m", "heun")
WITH_LEVELS = ("euler", "unipc", "lcm")  # for pipelines that name the noise levels
UNEQUAL = (
    "a red circle",
    "two small green squares, " + "and behind them many more, each a little smaller and of another color " * 4,
)
UNGUIDED = {"flux_schnell"}


def jobs(samplers, guidances, negatives=("blue, small",), prompts=("a red circle", "two small green squares")):
    """Jobs of every sampler and guidance scale, with steps, seeds, prompts and negative prompts that differ."""
    cases = {}
    for number, (sampler, guidance) in enumerate((one, other) for one in samplers for other in guidances):
        cases[f"{sampler}-{guidance:g}"] = {
            "sampler": sampler,
            "steps": 4 + number % 3,
            "guidance_scale": guidance,
            "negative_prompt": negatives[number % len(negatives)] if guidance > 1 else "",
            "prompt": prompts[number % len(prompts)],
            "seed": 100 + number,
            "width": 64,
            "height": 64,
        }
    return cases


FAMILIES = {
    "sd1": jobs(DIFFUSION, (1.0, 6.5)),
    "sd2_v": jobs(DIFFUSION, (1.0, 4.0)),
    "sdxl": jobs(DIFFUSION, (1.0, 5.0), negatives=("", "blue, small")),
    "sdxl_turbo": jobs(("euler_a",), (1.0, 1.0)),
    "sd3": jobs(FLOW, (1.0, 5.0)),
    "sd35": jobs((*FLOW, "lcm"), (1.0, 5.0), negatives=("", "blue, small")),
    "flux_dev": jobs(("euler", "dpmpp_2m", "unipc", "dpmpp_2m_sde", "lcm"), (1.0, 3.5), negatives=("",)),
    "flux_schnell": jobs(("euler", "lcm"), (0.0, 1.0), negatives=("",)),
    "qwen_image": jobs(WITH_LEVELS, (1.0, 4.0), negatives=("", "blue, small"), prompts=UNEQUAL),
    "z_image": jobs(WITH_LEVELS, (1.0, 5.0), negatives=("", "blue, small"), prompts=UNEQUAL),
    "z_image_turbo": jobs(("euler",), (1.0, 1.0), prompts=UNEQUAL),
}
CASES = [(family, case) for family, cases in FAMILIES.items() for case in cases]


@pytest.fixture(scope="module")
def drawn(load_family, drive, spy):
    """All jobs of a family at once: pictures by name, latents by seed; drawn when first asked for."""
    done = {}

    def draw(family):
        if family not in done:
            spied = spy(load_family(family))
            done[family] = drive(spied, max_batch=16).draw(FAMILIES[family]), spied.latents
        return done[family]

    return draw


def diffusers_draws(pipeline, fields, **more):
    """Latent (C, H, W) and picture (H, W, 3) in 0..1 of diffusers' own pipeline."""
    from reference_calls import call

    return call(pipeline, fields, **more)


@pytest.mark.parametrize(("family", "case"), CASES)
def test_a_latent_in_a_crowd_is_the_one_that_diffusers_draws_alone(family, case, drawn, reference_of):
    fields = FAMILIES[family][case]
    pictures, latents = drawn(family)
    latent, picture = diffusers_draws(reference_of(family), fields)
    error = float((latents[fields["seed"]] - latent).abs().max() / latent.abs().max())
    assert error < 1e-4
    assert np.abs(pictures[case].astype(int) - np.round(picture * 255).astype(int)).max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_latent_is_the_same_alone_and_in_a_crowd(family, drawn, load_family, drive, spy):
    case = list(FAMILIES[family])[-1]
    alone = spy(load_family(family))
    drive(alone).draw({case: FAMILIES[family][case]})
    seed = FAMILIES[family][case]["seed"]
    crowd = drawn(family)[1][seed]
    assert torch.allclose(alone.latents[seed], crowd, rtol=1e-4, atol=1e-4 * float(crowd.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_guidance_and_seed_all_matter(family, reference_of):
    base = next(iter(FAMILIES[family].values())) | {"guidance_scale": 5.0, "negative_prompt": ""}
    changes = [{}, {"prompt": "a yellow triangle and many more"}, {"seed": 2}]
    if family not in UNGUIDED:
        changes.append({"guidance_scale": 2.0})
    latents = [diffusers_draws(reference_of(family), {**base, **change})[0] for change in changes]
    for changed in latents[1:]:
        assert float((changed - latents[0]).abs().max() / latents[0].abs().max()) > 0.01
