"""Samplers of flow-matching models, against the loops of those models' diffusers pipelines."""

from typing import Any

import diffusers
import pytest
import torch
from as_diffusers import FLOW_REFERENCE, SD15, SHAPE, assert_same_picture, fake_model
from flow_models import EULER, FLOW_MODELS, FlowModel
from hypothesis import given, settings
from hypothesis import strategies as st

from collodion.worker.sampling.catalog import FLOW_SAMPLERS, SAMPLERS, SamplerRefused, flow_matching, samplers_for
from collodion.worker.sampling.counting import line_of
from collodion.worker.sampling.noise import NoiseSource
from collodion.worker.sampling.probing import probe
from collodion.worker.sampling.reference import Walk, build
from collodion.worker.sampling.table import SamplerTable
from collodion.worker.sampling.timetable import OWN, Timetable
from collodion.worker.sampling.trajectory import Trajectory
from collodion.worker.sampling.update import advance

ALL = tuple(FLOW_SAMPLERS)
NO_HEUN = tuple(name for name in ALL if name != "heun")
OFFERED = {
    "sd3": ALL,
    "flux-dev": NO_HEUN,
    "flux-schnell": NO_HEUN,
    "qwen-image": ("euler", "unipc", "lcm"),
    "lumina2": ("euler", "unipc", "lcm"),
    "z-image": ("euler", "unipc", "lcm"),
    "sana": ALL,
}
PAIRS = [(model, name) for model, names in OFFERED.items() for name in names]
REFUSED = [(model, name) for model, names in OFFERED.items() for name in ALL if name not in names]
SEED = 13


def picture() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(77))


def mask() -> torch.Tensor:
    return torch.arange(64).reshape(1, 8, 8).remainder(5) / 4


def table_of(model: FlowModel, name: str, steps: int, skipped: int = 0) -> SamplerTable:
    return probe(name, steps, model.config, skipped, model.timetable(steps))


def draw(table: SamplerTable, clean: torch.Tensor | None, painting: torch.Tensor | None = None) -> list[torch.Tensor]:
    source = NoiseSource(SEED, SHAPE)
    noise = source.draw("model")
    row = Trajectory.begin_from(table, source, noise, clean)
    latents = [row.latent.clone()]
    while not row.finished:
        advance([row], fake_model(row.latent[None], row.timestep))
        if clean is not None and painting is not None:
            signal, share = table.levels[row.call]
            row.state[0] = (1 - painting) * (signal * clean + share * noise) + painting * row.latent
        latents.append(row.latent.clone())
    return latents


def test_every_flow_sampler_has_a_reference() -> None:
    assert set(FLOW_REFERENCE) == set(FLOW_SAMPLERS) <= set(SAMPLERS)


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize(("model", "name"), PAIRS)
def test_latents_are_those_of_the_pipeline(model: str, name: str, steps: int) -> None:
    flow = FLOW_MODELS[model]
    table = table_of(flow, name, steps)
    scheduler = FLOW_REFERENCE[name](flow.config)
    assert_same_picture(draw(table, None), flow.from_noise(scheduler, steps, SEED))
    assert list(table.timesteps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize(("steps", "skipped"), [(10, 0), (10, 4), (7, 6)])
@pytest.mark.parametrize(("model", "name"), PAIRS)
def test_a_latent_from_a_picture_is_that_of_the_pipeline(model: str, name: str, steps: int, skipped: int) -> None:
    flow = FLOW_MODELS[model]
    ours = draw(table_of(flow, name, steps, skipped), picture())
    scheduler = FLOW_REFERENCE[name](flow.config)
    assert_same_picture(ours, flow.from_picture(scheduler, steps, skipped, SEED, picture()))


@pytest.mark.parametrize(("steps", "skipped"), [(10, 4), (7, 6)])
@pytest.mark.parametrize(("model", "name"), PAIRS)
def test_an_inpainted_latent_is_that_of_the_pipeline(model: str, name: str, steps: int, skipped: int) -> None:
    flow = FLOW_MODELS[model]
    ours = draw(table_of(flow, name, steps, skipped), picture(), mask())
    scheduler = FLOW_REFERENCE[name](flow.config)
    assert_same_picture(ours, flow.from_picture(scheduler, steps, skipped, SEED, picture(), mask()))


@pytest.mark.parametrize(("model", "name"), REFUSED)
def test_what_the_pipeline_cannot_run_is_refused(model: str, name: str) -> None:
    with pytest.raises(SamplerRefused, match=f"{name} cannot (honour|take)"):
        table_of(FLOW_MODELS[model], name, 20)


@pytest.mark.parametrize(("model", "name"), PAIRS)
def test_a_perfect_model_is_followed_to_its_picture(model: str, name: str) -> None:
    """Where every line leads to one picture, the velocity tells it exactly: a sampler that ends anywhere else is wrong."""
    table = table_of(FLOW_MODELS[model], name, 12)
    row = Trajectory.begin(table, SEED, SHAPE)
    while not row.finished:
        sigma = table.levels[row.call][1]
        velocity = (row.latent - picture()) / sigma
        clean_estimate = row.latent - sigma * velocity
        assert torch.allclose(clean_estimate, picture(), atol=1e-5)
        advance([row], velocity[None])
    assert torch.allclose(row.latent, picture(), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(pair=st.sampled_from(PAIRS), steps=st.integers(2, 50), data=st.data())
def test_calls_are_the_same_line_whatever_is_skipped(pair: tuple[str, str], steps: int, data: st.DataObject) -> None:
    flow, name = FLOW_MODELS[pair[0]], pair[1]
    skipped = data.draw(st.integers(0, steps - 1))
    scheduler = build(name, flow.config)
    line = line_of(name, lambda asked: len(Walk(name, asked, scheduler, 0, flow.timetable(asked))))
    walk = Walk(name, steps, scheduler, skipped, flow.timetable(steps))
    assert line == ((2, -1) if name == "heun" else (1, 0))
    assert len(walk) == line[0] * (steps - skipped) + line[1]


def test_the_picture_s_size_is_part_of_the_table() -> None:
    config = FLOW_MODELS["flux-dev"].config
    small, large = (probe("euler", 8, config, 0, Timetable(mu=mu)) for mu in (0.5, 1.15))
    assert small.timesteps != large.timesteps
    assert probe("euler", 8, config, 0, Timetable(mu=0.5)) is small


STOCHASTIC = {**EULER, "shift": 3.0, "stochastic_sampling": True}


def test_stochastic_sampling_is_honoured_from_the_latent_s_own_noise() -> None:
    flow = FlowModel(STOCHASTIC, FLOW_MODELS["sd3"].says, FLOW_MODELS["sd3"].timetable)
    scheduler = FLOW_REFERENCE["euler"](STOCHASTIC)
    assert_same_picture(draw(table_of(flow, "euler", 8), None), flow.from_noise(scheduler, 8, SEED))


@pytest.mark.parametrize("option", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_other_noise_levels_are_honoured_where_the_class_can(option: str) -> None:
    config = {**EULER, "shift": 3.0, option: True}
    flow = FlowModel(config, FLOW_MODELS["sd3"].says, FLOW_MODELS["sd3"].timetable)
    scheduler = FLOW_REFERENCE["euler"](config)
    assert_same_picture(draw(table_of(flow, "euler", 8), None), flow.from_noise(scheduler, 8, SEED))
    for name in ("heun", "dpmpp_2m", "unipc"):
        with pytest.raises(SamplerRefused, match=option):
            probe(name, 8, config)


REFUSALS = [
    ("heun", {"stochastic_sampling": True}, OWN, "sets stochastic_sampling"),
    ("euler", {"invert_sigmas": True}, OWN, "sets invert_sigmas"),
    ("lcm", {"scale_factors": [0.5]}, OWN, "sets scale_factors"),
    ("euler", {"use_dynamic_shifting": True}, OWN, "`mu` must be passed"),
    ("dpmpp_2m", {"use_dynamic_shifting": True, "time_shift_type": "linear"}, Timetable(mu=0.7), "an assertion"),
    ("euler", {"shift_terminal": 0.02}, Timetable(sigmas=(1.0,)), "not finite at model call 1 of 1"),
    ("ddim", {}, OWN, "ddim is not for flow-matching models; their samplers are euler, heun"),
    ("deis", {}, OWN, "deis is not for flow-matching models"),
    ("no_such", {}, OWN, "unknown sampler 'no_such'; the samplers are euler, heun"),
]


@pytest.mark.parametrize(("name", "changes", "timetable", "reason"), REFUSALS)
def test_what_cannot_be_right_is_refused_with_its_reason(
    name: str, changes: dict[str, Any], timetable: Timetable, reason: str
) -> None:
    steps = len(timetable.sigmas) if timetable.sigmas else 8
    with pytest.raises(SamplerRefused) as refusal:
        probe(name, steps, {**EULER, "shift": 3.0, **changes}, 0, timetable)
    assert reason in refusal.value.reason


KINDS = [
    (SD15, False),
    (diffusers.DDIMScheduler().config, False),
    (diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction").config, True),
    (diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config, True),
    *((flow.config, True) for flow in FLOW_MODELS.values()),
]


@pytest.mark.parametrize(("config", "flows"), KINDS)
def test_the_kind_of_model_is_told_from_its_scheduler(config: dict[str, Any], flows: bool) -> None:
    assert flow_matching(config) == flows
    assert samplers_for(config) is (FLOW_SAMPLERS if flows else SAMPLERS)
