"""Tables and updates against the unmodified diffusers schedulers, driven as StableDiffusionPipeline drives them."""

import json
import random
import subprocess
import sys
import threading
from typing import Any

import diffusers
import pytest
import torch
from as_diffusers import REFERENCE, SD15, SHAPE, ZERO_SNR, assert_same_picture, by_diffusers, fake_model
from hypothesis import given, settings
from hypothesis import strategies as st

from collodion.worker.sampling import probing
from collodion.worker.sampling.catalog import MAX_STEPS, SAMPLERS, SamplerRefused
from collodion.worker.sampling.noise import NoiseSource
from collodion.worker.sampling.probing import probe
from collodion.worker.sampling.trajectory import Trajectory
from collodion.worker.sampling.update import advance, model_inputs

STEPS = (4, 20, 50)
SLOW_TO_PROBE = ("kdpm2", "lms")
DISTILLED = ("lcm", "tcd")  # 50 steps at most


def evaluate(rows: list[Trajectory]) -> None:
    """One evaluation of the fake model for every row, row by row, as if in one batch."""
    inputs = model_inputs(rows)
    outputs = [fake_model(x[None], row.timestep) for x, row in zip(inputs, rows, strict=True)]
    advance(rows, torch.cat(outputs))


def by_table(name: str, steps: int, config: dict[str, Any], seed: int) -> list[torch.Tensor]:
    row = Trajectory.begin(probe(name, steps, config), seed, SHAPE)
    latents = [row.latent]
    while not row.finished:
        evaluate([row])
        latents.append(row.latent)
    return latents


def test_every_sampler_has_a_reference() -> None:
    assert set(REFERENCE) == set(SAMPLERS)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_latents_are_those_of_diffusers(name: str, steps: int, prediction: str) -> None:
    config = {**SD15, "prediction_type": prediction}
    assert_same_picture(by_table(name, steps, config, seed=7), by_diffusers(name, steps, config, seed=7))


@pytest.mark.parametrize(
    "name", ["ddim", "ddpm", "euler", "euler_a", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "lcm", "tcd"]
)
def test_zero_terminal_snr_is_honoured_where_diffusers_can(name: str) -> None:
    assert_same_picture(by_table(name, 20, ZERO_SNR, seed=3), by_diffusers(name, 20, ZERO_SNR, seed=3))


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from([name for name in SAMPLERS if name not in SLOW_TO_PROBE]),
    steps=st.integers(0, MAX_STEPS // 2 - 1).map(lambda half: 2 * half + 1),
    seed=st.integers(0, 2**63 - 1),
)
def test_odd_step_counts_are_those_of_diffusers(name: str, steps: int, seed: int) -> None:
    steps = min(steps, 49) if name in DISTILLED else steps
    assert_same_picture(by_table(name, steps, SD15, seed), by_diffusers(name, steps, SD15, seed))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_is_as_many_evaluations_as_the_sampler_needs(name: str, steps: int) -> None:
    table = probe(name, steps, SD15)
    calls = {"heun": 2 * steps - 1, "kdpm2": 2 * steps - 1, "pndm": steps + 1}.get(name, steps)
    scheduler = REFERENCE[name](SD15)
    scheduler.set_timesteps(steps)
    assert len(table) == calls == len(scheduler.timesteps)
    assert list(table.timesteps) == scheduler.timesteps.tolist()
    assert sorted(set(table.step_of)) == list(range(steps))
    assert list(table.step_of) == sorted(table.step_of)


@pytest.mark.parametrize(
    ("name", "history"),
    [("ddim", 0), ("euler_a", 0), ("heun", 1), ("dpmpp_2m", 1), ("dpmpp_3m", 2), ("unipc", 2), ("lms", 3), ("pndm", 3)],
)
def test_history_is_as_short_as_it_can_be(name: str, history: int) -> None:
    assert probe(name, 20, SD15).history == history


def test_noise_with_no_effect_is_drawn_all_the_same() -> None:
    table = probe("euler_a", 4, SD15)
    assert table.draws == ("model",) * 4
    assert table.matrices[-1, 0, -1] == 0
    assert probe("dpmpp_2m_sde", 4, SD15).draws == ("float32",) * 4
    assert probe("lcm", 4, SD15).draws == ("model", "model", "model", None)


def run_alone(name: str, steps: int, seed: int) -> torch.Tensor:
    return by_table(name, steps, SD15, seed)[-1]


def bits(tensor: torch.Tensor) -> list[int]:
    result: list[int] = tensor.contiguous().view(torch.int32).flatten().tolist()
    return result


@pytest.mark.parametrize("crowd_seed", range(4))
def test_a_crowd_of_samplers_joining_at_any_time_changes_no_bit_of_anybody(crowd_seed: int) -> None:
    rng = random.Random(crowd_seed)
    plans = [(name, rng.choice((3, *STEPS)), rng.randrange(2**32)) for name in SAMPLERS]
    waiting = [Trajectory.begin(probe(name, steps, SD15), seed, SHAPE) for name, steps, seed in plans]
    rows = list(waiting)
    while any(not row.finished for row in rows):
        joined = [row for row in waiting if not row.finished and rng.random() < 0.7]
        rng.shuffle(joined)
        if joined:
            evaluate(joined)
    for row, plan in zip(rows, plans, strict=True):
        assert bits(row.latent) == bits(run_alone(*plan)), plan


@pytest.mark.parametrize("copies", [2, 3, 16, 64])
def test_the_size_of_the_batch_changes_no_bit(copies: int) -> None:
    table = probe("unipc", 20, SD15)
    shape = (3, 5, 7)  # no multiple of any vector length
    rows = [Trajectory.begin(table, seed, shape) for seed in range(copies)]
    alone = Trajectory.begin(table, copies - 1, shape)
    outputs = torch.Generator().manual_seed(0)
    while not alone.finished:
        e = torch.randn((copies, *shape), generator=outputs)
        advance(rows, e)
        advance([alone], e[-1:])
    assert bits(rows[-1].state) == bits(alone.state)


def test_a_row_that_turns_to_nan_harms_no_other() -> None:
    rows = [Trajectory.begin(probe(name, 4, SD15), 1, SHAPE) for name in SAMPLERS]
    spoilt = list(SAMPLERS).index("dpmpp_2m")
    for call in range(4):
        e = torch.randn((len(rows), *SHAPE), generator=torch.Generator().manual_seed(call))
        e[spoilt] = float("nan")
        advance(rows, e)
    assert [bool(row.latent.isfinite().all()) for row in rows] == [index != spoilt for index in range(len(rows))]


def test_a_parked_latent_resumes_elsewhere_from_its_state() -> None:
    table = probe("dpmpp_2m_sde", 20, SD15)
    here = Trajectory.begin(table, 5, SHAPE)
    while here.call < 9:
        evaluate([here])
    here.compact()
    noise = NoiseSource(0, SHAPE)
    noise.import_state(here.noise.export_state())
    there = Trajectory(table, here.state.clone(), noise, here.call)
    while not there.finished:
        evaluate([there])
    assert torch.equal(there.latent, run_alone("dpmpp_2m_sde", 20, 5))


def test_half_precision_models_draw_in_half_precision() -> None:
    reference = torch.Generator().manual_seed(11)
    noise = NoiseSource(11, SHAPE, torch.float16)
    expected = torch.randn((1, *SHAPE), generator=reference, dtype=torch.float16) * 3.0
    assert torch.equal(noise.scaled(noise.draw("model"), 3.0), expected[0].float())
    assert torch.equal(noise.draw("float32"), torch.randn((1, *SHAPE), generator=reference)[0])


REFUSALS = [
    ("no_such_sampler", 20, {}, "unknown sampler"),
    ("euler", 0, {}, "steps must be 1 to 150"),
    ("euler", MAX_STEPS + 1, {}, "steps must be 1 to 150"),
    ("lcm", 51, {}, "original_steps"),
    ("ddim", 20, {"clip_sample": True}, "sets clip_sample"),
    ("heun", 20, {"clip_sample": True}, "sets clip_sample"),
    ("dpmpp_2m", 20, {"thresholding": True}, "sets thresholding"),
    ("pndm", 20, ZERO_SNR, "rescale_betas_zero_snr"),
    ("deis", 20, ZERO_SNR, "rescale_betas_zero_snr"),
    ("ddim", 20, {**ZERO_SNR, "prediction_type": "epsilon"}, "not finite at model call 1 of 20"),
    ("unipc", 20, {"lower_order_final": False}, "not finite at model call 20 of 20"),
    ("ddpm", 20, {"variance_type": "fixed_large_log"}, "not finite"),
    ("euler_a", 20, {"prediction_type": "sample"}, "not implemented"),
    ("euler", 20, {"beta_schedule": "no_such_schedule"}, "no_such_schedule is not implemented"),
    ("euler", 20, {"shift": 3.0}, "knows no shift"),
    ("ddim", 61, {"timestep_spacing": "trailing"}, "rounds 61 steps to 62"),
]


@pytest.mark.parametrize(("name", "steps", "changes", "reason"), REFUSALS)
def test_what_cannot_be_exact_is_refused_with_its_reason(
    name: str, steps: int, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SamplerRefused) as refusal:
        probe(name, steps, {**SD15, **changes})
    assert reason in refusal.value.reason


def test_a_configuration_without_clip_sample_clips_as_the_class_does_by_default() -> None:
    config = {key: value for key, value in SD15.items() if key != "clip_sample"}
    with pytest.raises(SamplerRefused, match="sets clip_sample"):
        probe("ddpm", 20, config)


def test_clipping_that_no_option_announces_is_found_by_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    step = diffusers.DDIMScheduler.step

    def clipping(self: Any, e: torch.Tensor, t: torch.Tensor, x: torch.Tensor, **extra: Any) -> Any:
        return (step(self, e, t, x, **extra)[0].clamp(-2, 2),)

    monkeypatch.setattr(diffusers.DDIMScheduler, "step", clipping)
    with pytest.raises(SamplerRefused, match="cannot be reproduced exactly"):
        probing.build_table("ddim", 20, SD15)


def test_a_table_is_made_once_however_the_configuration_is_spelled() -> None:
    table = probe("euler", 12, SD15)
    assert probe("euler", 12, dict(reversed(SD15.items()))) is table
    assert probe("euler", 12, {**SD15, "steps_offset": 0, "timestep_spacing": "leading"}) is not table


def test_many_threads_get_one_table() -> None:
    tables: list[Any] = []
    threads = [threading.Thread(target=lambda: tables.append(probe("ddim", 13, SD15))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(tables) == 8
    assert len({id(table) for table in tables}) == 1


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "CACHED_TABLES", 2)
    first = probe("ddim", 3, SD15)
    probe("ddim", 4, SD15)
    probe("ddim", 5, SD15)
    assert probe("ddim", 3, SD15) is not first


def test_tables_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        probe("ddim", 4, SD15).matrices[0, 0, 0] = 1.0


def test_names_are_listed_without_torch() -> None:
    script = """
import sys
sys.modules.update(torch=None, diffusers=None, numpy=None)
from collodion.worker.sampling.catalog import SAMPLERS
import json
print(json.dumps(list(SAMPLERS)))
"""
    listed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert json.loads(listed.stdout) == list(SAMPLERS)
