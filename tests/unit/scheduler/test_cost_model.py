"""What the cost model believes a batch takes, whatever the reports are like."""

import math
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collodion.scheduler.cost_model import DECODE, ENCODE, STEP, STORE, CostModel
from collodion.scheduler.fleet import Worker
from collodion.scheduler.plans import WorkerCosts

GPU, CPU, KEY = "gpu", "cpu", "sd15/512x512"

# An H100's step of Stable Diffusion 1.5, ms by batch: 10.96 ms an image at 8, 11.07 at 9, 10.22 at 15.
H100_MS = (26.4, 31.9, 41.3, 49.6, 61.1, 68.6, 78.7, 87.7, 99.6, 108.8, 116.1, 126.1, 134.6, 144.2, 153.3)
STEPS = {batch: ms / 1000 for batch, ms in enumerate(H100_MS, 1)}


def report(model: CostModel, sizes: Iterable[int], factor: float = 1.0, device: str = GPU) -> None:
    """Exact reports of steps of these sizes."""
    for size in sizes:
        model.learn(device, STEP, KEY, size, STEPS[size] * factor)


def profiled() -> CostModel:
    model = CostModel()
    model.load(GPU, KEY, {STEP: STEPS})
    return model


def step_s(model: CostModel, size: int, device: str = GPU) -> float:
    seconds = model.seconds(device, STEP, KEY, size)
    assert seconds is not None
    return seconds


# ---------------------------------------------------------------------- what is known


def test_what_was_never_measured_is_unknown_and_not_guessed_from_another_lane_key_or_device() -> None:
    model = CostModel()
    report(model, [4])
    assert model.seconds(GPU, STEP, KEY, 4) == STEPS[4]
    for elsewhere in ((CPU, STEP, KEY), (GPU, DECODE, KEY), (GPU, STEP, "sd15/768x768")):
        assert model.seconds(*elsewhere, 4) is None
        assert model.curve(*elsewhere, 4) is None


def test_who_asks_is_told_the_most_that_a_lane_takes_at_another_size_of_the_same_model() -> None:
    model = CostModel()
    model.learn(GPU, ENCODE, "a/b/512x512", 1, 0.02)
    model.learn(GPU, ENCODE, "a/b/64x64+style/1x1:0.5", 1, 0.03)
    model.learn(CPU, ENCODE, "a/b/512x512", 1, 0.5)
    model.learn(GPU, ENCODE, "a/512x512", 1, 0.7)
    curve = model.most_at_other_sizes(GPU, ENCODE, "a/b/768x768", 2)
    assert curve is not None
    assert curve[:2] == (0.0, pytest.approx(0.03))
    assert model.most_at_other_sizes(GPU, ENCODE, "c/512x512", 2) is None
    assert model.most_at_other_sizes(GPU, STEP, "a/b/768x768", 2) is None


def test_a_worker_that_knew_all_prompts_of_a_size_is_not_thought_to_encode_for_nothing() -> None:
    model = CostModel()
    worker = Worker(b"w", "w", "w", GPU, (), cap=4, max_resident=8, heard=0.0, device_kind=GPU, encode_batch=2)
    for key in ("m/512x512", "m/768x768"):
        model.learn(GPU, STEP, key, 1, 0.1)
        model.learn(GPU, DECODE, key, 1, 0.05)
    costs = WorkerCosts(worker, model)
    assert costs["m/768x768"].encode == (0.0, 0.0, 0.0)
    model.learn(GPU, ENCODE, "m/512x512", 1, 0.02)
    assert costs["m/768x768"].encode[1] == 0.02
    model.learn(GPU, ENCODE, "m/768x768", 1, 0.03)
    assert costs["m/768x768"].encode[1] == 0.03


def test_two_kinds_of_device_learn_apart() -> None:
    model = CostModel()
    for _ in range(20):
        report(model, (1, 2, 4))
        report(model, (1, 2, 4), factor=50.0, device=CPU)
    assert step_s(model, 2) == pytest.approx(STEPS[2], rel=0.01)
    assert step_s(model, 2, CPU) == pytest.approx(50 * STEPS[2], rel=0.01)


def test_every_lane_has_its_own_costs() -> None:
    model = CostModel()
    for lane, seconds in ((STEP, 0.02), (ENCODE, 0.01), (DECODE, 0.03), (STORE, 0.2)):
        model.learn(GPU, lane, KEY, 1, seconds)
    assert [model.seconds(GPU, lane, KEY, 1) for lane in (STEP, ENCODE, DECODE, STORE)] == [0.02, 0.01, 0.03, 0.2]


@pytest.mark.parametrize(
    ("size", "seconds"),
    [(0, 1.0), (-1, 1.0), (5000, 1.0), (1, -1.0), (1, math.nan), (1, math.inf), (1, -math.inf), (1, 1e300)],
)
def test_what_cannot_be_a_measurement_is_ignored(size: int, seconds: float) -> None:
    model = CostModel()
    model.learn(GPU, STEP, KEY, size, seconds)
    assert model.curve(GPU, STEP, KEY, 4) is None
    report(model, [1])
    before = (model.version, model.curve(GPU, STEP, KEY, 4), model.margin(GPU, KEY))
    model.learn(GPU, STEP, KEY, size, seconds)
    assert (model.version, model.curve(GPU, STEP, KEY, 4), model.margin(GPU, KEY)) == before


def test_memory_is_bounded_and_what_was_not_reported_for_longest_makes_room() -> None:
    model = CostModel()
    for number in range(3000):
        model.learn(GPU, STEP, f"key {number}", 1, 1.0)
        model.learn(GPU, STEP, "used all the time", 1, 2.0)
    assert model.seconds(GPU, STEP, "key 0", 1) is None
    assert model.seconds(GPU, STEP, "key 2999", 1) == 1.0
    assert model.seconds(GPU, STEP, "used all the time", 1) == 2.0
    assert len(list(model.errors())) <= 1024


def test_a_flood_of_sizes_is_bounded() -> None:
    model = CostModel()
    for size in range(1, 4097):
        model.learn(GPU, STEP, KEY, size, size * 0.01)
    (costs,) = model._costs.values()
    assert len(costs.curves[STEP]._points) <= 512
    assert step_s(model, 4096) == pytest.approx(40.96, rel=0.25)


# ---------------------------------------------------------------------- gaps


def test_between_measured_sizes_it_is_interpolated() -> None:
    model = CostModel()
    for _ in range(3):
        report(model, (2, 4))
    assert step_s(model, 3) == pytest.approx((STEPS[2] + STEPS[4]) / 2, rel=0.01)


def test_beyond_the_largest_measured_size_the_shape_goes_on_and_errs_on_the_slow_side() -> None:
    model = CostModel()
    for _ in range(3):
        report(model, range(1, 9))
    for size in (10, 12, 15):
        assert 0.98 * STEPS[size] < step_s(model, size) < STEPS[8] * size / 8


def test_below_the_smallest_measured_size_the_shape_goes_on_and_errs_on_the_slow_side() -> None:
    model = CostModel()
    for _ in range(3):
        report(model, (6, 8, 12))
    for size in (1, 3, 4):
        assert STEPS[size] < step_s(model, size) < STEPS[6]


def test_with_one_size_measured_fewer_cost_as_much_and_more_are_worth_a_try() -> None:
    model = CostModel()
    report(model, [4])
    assert step_s(model, 2) == STEPS[4]
    a_row = [step_s(model, size) / size for size in (4, 8, 16)]
    assert a_row == sorted(a_row, reverse=True)
    assert a_row[2] > 0.9 * a_row[0]


def test_a_table_that_is_not_monotone_is_kept_as_it_is() -> None:
    model = CostModel()
    for _ in range(30):
        report(model, range(1, 16))
    curve = model.curve(GPU, STEP, KEY, 15)
    assert curve == pytest.approx((0.0, *STEPS.values()), rel=0.002)
    a_row = [seconds / size for size, seconds in enumerate(curve[1:], 1)]
    assert a_row[7] < a_row[8] > a_row[14], "8 is better than 9, and 15 better than both"
    assert min(a_row) == a_row[14]


# ---------------------------------------------------------------------- profiles


def test_a_profile_is_believed_before_any_report() -> None:
    model = profiled()
    assert model.curve(GPU, STEP, KEY, 15) == pytest.approx((0.0, *STEPS.values()))
    assert model.curve(CPU, STEP, KEY, 15) is None


def test_a_profile_for_any_device_yields_to_one_for_this_kind() -> None:
    model = CostModel()
    model.load("", KEY, {STEP: {1: 1.0}})
    model.load(GPU, KEY, {STEP: {1: 2.0}})
    assert step_s(model, 1, "some other") == 1.0
    assert step_s(model, 1) == 2.0


def test_a_constant_bias_is_learned_within_ten_reports_and_corrects_sizes_that_were_never_reported() -> None:
    model = profiled()
    report(model, [8] * 10, factor=1.1)
    for size in (1, 4, 8, 15):
        assert step_s(model, size) == pytest.approx(1.1 * STEPS[size], rel=0.01)


def test_a_size_whose_profile_is_wrong_is_corrected_without_spoiling_the_others() -> None:
    model = CostModel()
    model.load(GPU, KEY, {STEP: STEPS | {6: 2 * STEPS[6]}})
    rng = random.Random(1)
    report(model, rng.choices(range(1, 16), k=300))
    assert model.curve(GPU, STEP, KEY, 15) == pytest.approx((0.0, *STEPS.values()), rel=0.01)


def test_a_profile_with_gaps_is_a_shape_to_follow() -> None:
    model = CostModel()
    model.load(GPU, KEY, {STEP: {size: STEPS[size] for size in (1, 4, 8, 15)}})
    report(model, [4, 8] * 10, factor=1.2)
    assert step_s(model, 12) == pytest.approx(1.2 * STEPS[12], rel=0.03)


# ---------------------------------------------------------------------- change


def test_a_slow_first_call_is_forgotten_at_once() -> None:
    model = CostModel()
    model.learn(GPU, STEP, KEY, 4, 5.0)  # compiles, allocates, tunes
    report(model, [4])
    assert step_s(model, 4) == STEPS[4]


def test_one_wild_report_moves_little() -> None:
    model = profiled()
    report(model, [8] * 100)
    model.learn(GPU, STEP, KEY, 8, 100 * STEPS[8])
    assert step_s(model, 8) == pytest.approx(STEPS[8], rel=0.02)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 3.0])
def test_a_level_that_shifts_is_followed_within_twenty_reports_at_every_size(factor: float) -> None:
    model = profiled()
    report(model, [4, 8, 12] * 50)
    report(model, [8] * 20, factor)
    for size in (4, 8, 12, 15):
        assert step_s(model, size) == pytest.approx(factor * STEPS[size], rel=0.03)


@given(seed=st.integers(0, 99), factor=st.sampled_from([0.8, 1.25]))
def test_a_shift_is_found_under_noise(seed: int, factor: float) -> None:
    rng = random.Random(seed)
    model = profiled()
    for number in range(340):
        size = rng.randint(6, 10)
        now = STEPS[size] * (factor if number >= 300 else 1.0)
        model.learn(GPU, STEP, KEY, size, now * max(0.1, rng.gauss(1.0, 0.1)))
    assert step_s(model, 8) == pytest.approx(factor * STEPS[8], rel=0.15)


def test_slow_drift_is_followed() -> None:
    model = profiled()
    for number in range(2000):
        report(model, [4 + number % 8], factor=1.0 + 0.3 * number / 2000)
    assert step_s(model, 8) == pytest.approx(1.3 * STEPS[8], rel=0.01)


@given(seed=st.integers(0, 99), bias=st.sampled_from([0.9, 1.0, 1.1]))
def test_noise_averages_out(seed: int, bias: float) -> None:
    rng = random.Random(seed)
    model = profiled()
    for _ in range(400):
        size = rng.randint(1, 15)
        model.learn(GPU, STEP, KEY, size, bias * STEPS[size] * max(0.1, rng.gauss(1.0, 0.1)))
    errors = [step_s(model, size) / (bias * STEPS[size]) - 1 for size in STEPS]
    assert abs(sum(errors) / len(errors)) < 0.05
    assert max(map(abs, errors)) < 0.15


# ---------------------------------------------------------------------- reading


def test_the_same_curve_is_read_until_the_version_rises() -> None:
    model = profiled()
    first, version = model.curve(GPU, STEP, KEY, 8), model.version
    report(model, [1, 8, 15] * 20)
    assert model.version == version
    assert model.curve(GPU, STEP, KEY, 8) is first
    report(model, [8] * 10, factor=1.5)
    assert model.version > version
    assert model.curve(GPU, STEP, KEY, 8) is not first


@given(
    reports=st.lists(
        st.tuples(st.sampled_from([GPU, CPU]), st.integers(1, 40), st.floats(0, 86_400)), min_size=1, max_size=120
    ),
    profile=st.dictionaries(st.integers(1, 40), st.floats(1e-6, 1e4), max_size=5),
)
def test_whatever_is_reported_costs_stay_positive_and_finite_and_change_with_the_version(
    reports: list[tuple[str, int, float]], profile: dict[int, float]
) -> None:
    model = CostModel()
    if profile:
        model.load("", KEY, {STEP: profile})
    for device, size, seconds in reports:
        before = model.version, model.curve(device, STEP, KEY, 40), model.allowance(device, KEY)
        model.learn(device, STEP, KEY, size, seconds)
        curve = model.curve(device, STEP, KEY, 40)
        assert curve is not None
        assert curve[0] == 0.0
        assert all(0.0 < seconds < math.inf for seconds in curve[1:])
        assert curve[7] == model.seconds(device, STEP, KEY, 7)
        assert 0.0 <= model.margin(device, KEY) <= 1.0
        if model.version == before[0]:
            assert (curve, model.allowance(device, KEY)) == before[1:]


@given(seed=st.integers(0, 1000))
def test_the_same_reports_give_the_same_model(seed: int) -> None:
    def learned() -> tuple[tuple[float, ...] | None, float, int]:
        rng = random.Random(seed)
        model = CostModel()
        for _ in range(100):
            model.learn(GPU, STEP, KEY, rng.randint(1, 15), rng.uniform(0.01, 0.1))
        return model.curve(GPU, STEP, KEY, 15), model.margin(GPU, KEY), model.version

    assert learned() == learned()
