"""Tables that begin in the middle, against the loops of diffusers' image-to-image and inpainting pipelines."""

import pytest
import torch
from as_diffusers import REFERENCE, SD15, SHAPE, ZERO_SNR, Pipeline, assert_same_picture, by_diffusers, fake_model
from hypothesis import given, settings
from hypothesis import strategies as st

from collodion.worker.sampling.catalog import SAMPLERS, SamplerRefused
from collodion.worker.sampling.counting import line_of
from collodion.worker.sampling.noise import NoiseSource
from collodion.worker.sampling.probing import probe
from collodion.worker.sampling.reference import Walk, build
from collodion.worker.sampling.table import SamplerTable
from collodion.worker.sampling.trajectory import Trajectory
from collodion.worker.sampling.update import advance, model_inputs

STEPS_AND_STRENGTHS = [(20, 1.0), (20, 0.6), (10, 0.33), (10, 0.1), (7, 0.5), (4, 0.3), (1, 1.0)]
SEED = 9


def picture() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(77))


def mask() -> torch.Tensor:
    """With parts to keep, to draw anew, and to blend."""
    return torch.arange(64).reshape(1, 8, 8).remainder(5) / 4


def table_for(name: str, steps: int, strength: float) -> SamplerTable:
    return probe(name, steps, SD15, steps - min(int(steps * strength), steps))


def draw(
    table: SamplerTable, clean: torch.Tensor, painting: torch.Tensor | None = None, *, pure: bool = False
) -> list[torch.Tensor]:
    source = NoiseSource(SEED, SHAPE)
    noise = source.draw("model")
    row = Trajectory.begin_from(table, source, noise, None if pure else clean)
    latents = [row.latent.clone()]
    while not row.finished:
        inputs = model_inputs([row])
        advance([row], fake_model(inputs, row.timestep))
        if painting is not None:
            signal, share = table.levels[row.call]
            row.state[0] = (1 - painting) * (signal * clean + share * noise) + painting * row.latent
        latents.append(row.latent.clone())
    return latents


@pytest.mark.parametrize(("steps", "strength"), STEPS_AND_STRENGTHS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_latent_from_a_picture_is_that_of_diffusers(name: str, steps: int, strength: float) -> None:
    ours = draw(table_for(name, steps, strength), picture())
    assert_same_picture(ours, Pipeline(REFERENCE[name](SD15)).from_picture(steps, strength, SEED, picture()))


@pytest.mark.parametrize(("steps", "strength"), STEPS_AND_STRENGTHS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_an_inpainted_latent_is_that_of_diffusers(name: str, steps: int, strength: float) -> None:
    ours = draw(table_for(name, steps, strength), picture(), mask(), pure=strength == 1.0)
    assert_same_picture(ours, Pipeline(REFERENCE[name](SD15)).from_picture(steps, strength, SEED, picture(), mask()))
    assert torch.equal(ours[-1][:, mask()[0] == 0], picture()[:, mask()[0] == 0])


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler", "euler_a", "dpmpp_2m", "unipc", "lcm", "tcd"])
def test_zero_terminal_snr_leaves_nothing_of_the_picture_at_full_strength(name: str) -> None:
    for steps, skipped in ((10, 0), (10, 4)):
        table = probe(name, steps, ZERO_SNR, skipped)
        pipeline = Pipeline(REFERENCE[name](ZERO_SNR))
        theirs = pipeline.from_picture(steps, 1 - skipped / steps, SEED, picture(), mask() if skipped else None)
        assert_same_picture(draw(table, picture(), mask() if skipped else None), theirs)
        signal, share = table.levels[0]
        assert (signal / share < 1e-3) == (skipped == 0)


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(list(SAMPLERS)), steps=st.integers(2, 50), data=st.data())
def test_calls_are_the_same_line_whatever_is_skipped(name: str, steps: int, data: st.DataObject) -> None:
    skipped = data.draw(st.integers(0, steps - 1))
    scheduler = build(name, SD15)
    per_step, more = line_of(name, lambda asked: len(Walk(name, asked, scheduler)))
    walk = Walk(name, steps, scheduler, skipped)
    assert len(walk) == per_step * (steps - skipped) + more
    assert walk.steps == steps - skipped
    assert sorted({walk.step_of(call) for call in range(len(walk))}) == list(range(walk.steps))


@pytest.mark.parametrize("name", SAMPLERS)
def test_with_nothing_skipped_the_table_is_that_of_noise(name: str) -> None:
    assert probe(name, 10, SD15, 0) is probe(name, 10, SD15)
    theirs = by_diffusers(name, 10, SD15, SEED)
    assert_same_picture(draw(probe(name, 10, SD15), picture(), pure=True), theirs)


@pytest.mark.parametrize("name", SAMPLERS)
def test_levels_fall_from_noise_to_the_clean_latent(name: str) -> None:
    table = probe(name, 10, SD15)
    shares = [share / signal for signal, share in table.levels]
    assert len(shares) == len(table) + 1
    assert shares == sorted(shares, reverse=True)
    assert table.levels[-1] == (1.0, 0.0)


@pytest.mark.parametrize("skipped", [-1, 10, 11])
def test_a_picture_that_leaves_no_step_is_refused(skipped: int) -> None:
    with pytest.raises(SamplerRefused, match=f"{skipped} of 10 steps skipped"):
        probe("euler", 10, SD15, skipped)


def test_a_half_precision_model_begins_from_its_own_noise_in_single_precision() -> None:
    table = table_for("ddim", 10, 0.5)
    source = NoiseSource(SEED, SHAPE, torch.float16)
    noise = source.draw("model")
    row = Trajectory.begin_from(table, source, noise, picture())
    drawn = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(SEED), dtype=torch.float16)
    signal, share = table.levels[0]
    assert torch.equal(noise, drawn[0].float())
    assert torch.equal(row.latent, signal * picture() + share * noise)


def test_a_posterior_is_drawn_before_the_noise_in_the_precision_of_its_vae() -> None:
    source = NoiseSource(SEED, SHAPE, torch.float16)
    reference = torch.Generator().manual_seed(SEED)
    posterior = torch.randn((1, *SHAPE), generator=reference)
    noise = torch.randn((1, *SHAPE), generator=reference, dtype=torch.float16)
    assert torch.equal(source.normal(torch.float32), posterior[0])
    assert torch.equal(source.draw("model"), noise[0].float())
