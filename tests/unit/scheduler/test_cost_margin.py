"""What predictions carry on top: what it is made of, and whether sums of calls stay within it."""

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collodion.scheduler.cost_error import HORIZON
from collodion.scheduler.cost_model import DECODE, STEP, CostModel

GPU, KEY = "gpu", "sd15/512x512"
STEPS = {size: 0.015 + 0.009 * size for size in range(1, 16)}
DECODES = {size: 0.010 + 0.016 * size for size in range(1, 5)}


def profiled(noise: float = 0.0) -> CostModel:
    model = CostModel()
    model.load(GPU, KEY, {STEP: STEPS, DECODE: DECODES}, noise=noise)
    return model


def run(
    model: CostModel,
    calls: int,
    *,
    noise: float = 0.0,
    factor: Callable[[int], float] = lambda _: 1.0,
    seed: int = 0,
    ahead: int = HORIZON,
) -> list[bool]:
    """Reports calls, thirty steps to a decode; whether each sum of so many calls ahead was within its prediction and allowance."""
    rng = random.Random(seed)
    size = 8
    kinds, seconds = [], []
    for call in range(calls):
        if rng.random() < 0.2:
            size = max(1, min(15, size + rng.choice((-2, -1, 1, 2))))
        lane, batch = (DECODE, min(4, size)) if call % 31 == 30 else (STEP, size)
        kinds.append((lane, batch))
        true = (DECODES if lane == DECODE else STEPS)[batch] * factor(call)
        seconds.append(true * max(0.1, rng.gauss(1.0, noise)))
    kept = []
    for call, (lane, batch) in enumerate(kinds):
        if call % 7 == 0 and call + ahead <= calls:
            predicted = sum(model.seconds(GPU, *kind) or 0.0 for kind in _known(kinds[call : call + ahead]))
            allowed = model.allowance(GPU, KEY).seconds(predicted)
            kept.append(sum(seconds[call : call + ahead]) <= predicted + allowed + 1e-9)
        model.learn(GPU, lane, KEY, batch, seconds[call])
    return kept


def _known(kinds: list[tuple[str, int]]) -> list[tuple[str, str, int]]:
    return [(lane, KEY, size) for lane, size in kinds]


def share(kept: list[bool]) -> float:
    return sum(kept) / len(kept)


@given(seed=st.integers(0, 999))
def test_exact_costs_need_no_margin_and_every_sum_is_within_its_prediction(seed: int) -> None:
    model = profiled()
    assert all(run(model, 200, seed=seed))
    assert model.margin(GPU, KEY) == 0.0


@pytest.mark.parametrize("noise", [0.03, 0.1])
@pytest.mark.parametrize("ahead", [4, 32, 100])
def test_sums_of_any_length_stay_within_what_noise_is_allowed(noise: float, ahead: int) -> None:
    model = profiled()
    run(model, 100, noise=noise)
    kept = [within for seed in range(5) for within in run(model, 600, noise=noise, seed=seed, ahead=ahead)]
    assert share(kept) > 0.97, "these sums have nothing to spare besides"


def test_noise_of_single_calls_averages_out_the_more_calls_are_ahead() -> None:
    model = profiled()
    run(model, 600, noise=0.1)
    allowance = model.allowance(GPU, KEY)
    call_s, relative = STEPS[8], [allowance.seconds(calls * STEPS[8]) / (calls * STEPS[8]) for calls in (1, 8, 32, 128)]
    assert relative == sorted(relative, reverse=True)
    assert 0.1 < relative[0] < 0.4, "a single call, by itself"
    assert relative[2] == pytest.approx(model.margin(GPU, KEY), rel=0.25)
    assert relative[3] < 0.05
    assert allowance.seconds(0.0) == 0.0
    assert allowance.seconds(call_s) < allowance.seconds(2 * call_s)


@pytest.mark.parametrize("bias", [0.9, 1.1])
def test_after_a_hundred_reports_a_constant_bias_is_in_the_costs_and_not_in_the_margin(bias: float) -> None:
    kept: list[bool] = []
    for seed in range(20):
        model = profiled()
        run(model, 100, factor=lambda _: bias, seed=seed)
        assert model.margin(GPU, KEY) < 0.03
        kept += run(model, 300, factor=lambda _: bias, seed=seed + 1)
    assert share(kept) > 0.97


def test_bias_and_noise_together_need_no_more_than_noise() -> None:
    model = profiled()
    run(model, 100, noise=0.1, factor=lambda _: 1.1)
    kept = [within for seed in range(5) for within in run(model, 400, noise=0.1, factor=lambda _: 1.1, seed=seed)]
    assert model.margin(GPU, KEY) < 0.08
    assert share(kept) > 0.97


def test_errors_that_come_together_need_more_than_those_that_average_out() -> None:
    drifting, noisy = profiled(), profiled()
    run(drifting, 2000, noise=0.03, factor=lambda call: 1.0 + 0.1 * math.sin(call / 20))
    run(noisy, 2000, noise=math.hypot(0.03, 0.1 / math.sqrt(2)))
    assert drifting.margin(GPU, KEY) > 1.5 * noisy.margin(GPU, KEY)
    assert drifting.allowance(GPU, KEY).seconds(10.0) > 2.0 * noisy.allowance(GPU, KEY).seconds(10.0)


def test_without_experience_the_margin_is_wide_and_exact_reports_make_it_small() -> None:
    model = CostModel()
    margins = [model.margin(GPU, KEY)]
    for calls in (10, 90, 900):
        run(model, calls)
        margins.append(model.margin(GPU, KEY))
    assert margins[0] == 0.15
    assert max(margins[1:]) < 0.06
    assert margins[-1] < 0.02


def test_the_spread_that_a_profile_was_measured_with_is_a_margin_from_the_beginning() -> None:
    assert profiled(noise=0.0).margin(GPU, KEY) == 0.0
    assert 0.01 < profiled(noise=0.05).margin(GPU, KEY) < 0.06


def test_what_whole_predictions_are_late_by_is_added_and_what_they_are_early_by_is_not() -> None:
    late, early = profiled(), profiled()
    for _ in range(100):
        late.predicted(GPU, KEY, 10.0, 10.5)
        early.predicted(GPU, KEY, 10.0, 9.5)
    assert late.margin(GPU, KEY) == pytest.approx(0.05, abs=0.01)
    assert early.margin(GPU, KEY) == 0.0
    biases = [errors.bias for model in (late, early) for _, _, errors in model.errors()]
    assert biases == pytest.approx([0.05, -0.05])


def test_one_broken_prediction_does_not_spoil_the_margin() -> None:
    model = profiled()
    run(model, 200)
    model.predicted(GPU, KEY, 1.0, 3600.0)
    assert model.margin(GPU, KEY) < 0.03


@pytest.mark.parametrize(
    ("expected", "actual"), [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, math.inf), (1e300, 1.0)]
)
def test_a_prediction_that_is_none_is_ignored(expected: float, actual: float) -> None:
    model = profiled()
    version = model.version
    model.predicted(GPU, KEY, expected, actual)
    assert (model.version, model.margin(GPU, KEY)) == (version, 0.0)
    assert model.allowance(GPU, KEY).seconds(100.0) == 0.0


def test_the_version_rises_with_the_margin() -> None:
    model = profiled()
    version = model.version
    for _ in range(50):
        model.predicted(GPU, KEY, 10.0, 11.0)
    assert model.margin(GPU, KEY) > 0.05
    assert model.version > version
