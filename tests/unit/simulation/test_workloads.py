"""From profiles, traces and draws to instances: formats, loads, deadlines, tenants."""

import itertools
import json
import math
import statistics
from pathlib import Path

import pytest

from simulation.fleets import Bounds, make_fleet
from simulation.instance import (
    Device,
    Instance,
    KeyCosts,
    Request,
    best_seconds,
    load_of,
    seconds,
    standalone_s,
    work_s,
)
from simulation.profiles import Profile, ProfileError, costs_at, read_profile
from simulation.traces import Arrival, TraceError, read_trace
from simulation.workloads import MIXED, TRACE_IMAGES, Tier, Workload, make_instance

COSTS = KeyCosts(encode=(0.25, 0.25), step=(0.125, 0.1875, 0.375), decode=(0.5, 0.75))
DEVICE = Device("device", "kind", {"m/512x512": COSTS}, max_batch=3, encode_batch=2, decode_batch=2)
PLAIN = Workload(jobs=400, model="m", shapes=((512, 10, 10, 1.0),))


def test_a_cost_table_goes_on_with_its_last_slope() -> None:
    assert seconds((1.0, 1.5, 3.0), 2) == 1.5
    assert seconds((1.0, 1.5, 3.0), 5) == 6.0
    assert seconds((1.0,), 3) == 3.0


def test_the_best_batch_size_need_not_be_the_largest() -> None:
    assert best_seconds(COSTS.step, 3) == 0.09375


def test_work_is_counted_at_the_best_batch_size_of_each_lane() -> None:
    # 2 images: 10 evaluations at 0.1875 / 2 and a decode at 0.75 / 2 each; half of an encode of two.
    assert work_s("m/512x512", 10, 2, DEVICE) == 2 * (10 * 0.09375 + 0.375) + 0.125


def test_standalone_is_one_batch_on_the_fastest_device() -> None:
    slow = Device("slow", "slow", {"m/512x512": COSTS.scaled(2.0)}, 3)
    assert standalone_s("m/512x512", 10, 1, [slow, DEVICE]) == 0.25 + 10 * 0.125 + 0.5
    # Four images on a device for three: a wave of three and one of one, each decoded by twos.
    assert standalone_s("m/512x512", 10, 4, [DEVICE]) == 0.25 + 10 * 0.375 + 0.75 + 0.5 + 10 * 0.125 + 0.5


def test_load_is_offered_work_over_capacity() -> None:
    work = work_s("m/512x512", 10, 1, DEVICE)
    instance = Instance(tuple(Request(0.0, 1.0, "m/512x512", 10) for _ in range(8)), (DEVICE, DEVICE))
    assert load_of(instance, 4 * work) == pytest.approx(1.0)


def test_an_instance_offers_the_load_that_was_asked_for() -> None:
    fast = Device("fast", "fast", {"m/512x512": COSTS.scaled(0.25)}, 3)
    workload = Workload(jobs=4000, model="m", shapes=((512, 10, 50, 1.0),), images=TRACE_IMAGES)
    instance = make_instance(workload, (DEVICE, fast), load=1.2, slo_scale=2, seed=1)
    assert load_of(instance, instance.requests[-1].release) == pytest.approx(1.2, rel=0.05)


def test_deadlines_are_the_scale_times_the_standalone_time() -> None:
    instance = make_instance(PLAIN, (DEVICE,), 1.0, 3.0, 1)
    assert {round(each.deadline - each.release, 9) for each in instance.requests} == {3 * (0.25 + 1.25 + 0.5)}


def test_all_cells_of_a_seed_ask_for_the_same_pictures() -> None:
    workload = Workload(jobs=50, model="m", shapes=((512, 10, 50, 1.0),), images=TRACE_IMAGES, tenants=3)
    low, high = (make_instance(workload, (DEVICE,), load, scale, 7) for load, scale in ((0.5, 2), (1.0, 5)))
    for one, other in zip(low.requests, high.requests, strict=True):
        assert (one.evaluations, one.images, one.tenant) == (other.evaluations, other.images, other.tenant)
        assert one.release == pytest.approx(2 * other.release)


def test_another_seed_asks_for_others() -> None:
    assert make_instance(PLAIN, (DEVICE,), 1, 2, 1) != make_instance(PLAIN, (DEVICE,), 1, 2, 2)


def test_gamma_arrivals_have_the_variation_that_was_asked_for() -> None:
    workload = Workload(jobs=20_000, model="m", shapes=PLAIN.shapes, cv=2.0)
    moments = [each.release for each in make_instance(workload, (DEVICE,), 1, 2, 1).requests]
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert statistics.stdev(gaps) / statistics.fmean(gaps) == pytest.approx(2.0, rel=0.1)


def test_a_flood_leaves_the_other_tenants_what_they_had() -> None:
    calm = make_instance(Workload(jobs=300, model="m", tenants=5), (DEVICE,), 0.5, 2, 3)
    flooded = make_instance(Workload(jobs=300, model="m", tenants=5, flood=10), (DEVICE,), 0.5, 2, 3)
    others = [each for each in flooded.requests if each.tenant != "tenant-0"]
    assert others == [each for each in calm.requests if each.tenant != "tenant-0"]
    own = len(flooded.requests) - len(others)
    assert own / (len(calm.requests) - len(others)) == pytest.approx(10, rel=0.35)


def test_a_burst_comes_at_zero_and_on_top() -> None:
    instance = make_instance(Workload(jobs=10, model="m", burst=30), (DEVICE,), 1, 2, 1)
    assert sum(each.release == 0.0 for each in instance.requests) == 30
    assert len(instance.requests) == 40


def test_tiers_have_factors_of_their_own_and_some_no_deadline() -> None:
    tiers = (Tier("interactive", 0.5, 1.0, 4.0), Tier("batch", 0.5, None, 0.5))
    instance = make_instance(Workload(jobs=200, model="m", tiers=tiers), (DEVICE,), 1, 2, 1)
    assert {(each.tier, each.weight, math.isinf(each.deadline)) for each in instance.requests} == {
        ("interactive", 4.0, False),
        ("batch", 0.5, True),
    }


def test_a_traces_steps_images_and_tenants_are_taken_where_named() -> None:
    trace = tuple(Arrival(float(second), 7, 4, f"G{second}") for second in range(20))
    workload = Workload(jobs=5, model="m", trace=trace, traced=frozenset({"steps", "tenants"}))
    instance = make_instance(workload, (DEVICE,), 1, 2, 1)
    assert {(each.evaluations, each.images) for each in instance.requests} == {(7, 1)}
    assert len({each.tenant for each in instance.requests}) == 5


def test_a_trace_is_stretched_to_the_load_and_keeps_its_rhythm() -> None:
    trace = tuple(Arrival(when) for when in (0.0, 1.0, 5.0, 6.0))
    instance = make_instance(Workload(jobs=4, model="m", shapes=PLAIN.shapes, trace=trace), (DEVICE,), 0.5, 2, 1)
    moments = [each.release for each in instance.requests]
    assert [moment / moments[1] for moment in moments] == pytest.approx([0, 1, 5, 6])
    assert load_of(instance, moments[-1] * 4 / 3) == pytest.approx(0.5)


def test_a_recorded_trace_keeps_its_own_times() -> None:
    trace = tuple(Arrival(when) for when in (0.0, 1.0, 5.0, 6.0))
    instance = make_instance(Workload(jobs=4, model="m", trace=trace, recorded=True), (DEVICE,), 0.5, 2, 1)
    assert [each.release for each in instance.requests] == pytest.approx([0.0, 1.0, 5.0, 6.0])


def test_a_trace_that_is_too_short_begins_again() -> None:
    trace = (Arrival(0.0), Arrival(1.0))
    instance = make_instance(Workload(jobs=7, model="m", trace=trace), (DEVICE,), 1, 2, 1)
    moments = [each.release for each in instance.requests]
    assert moments == sorted(moments)
    assert len(set(moments)) == 7


# ------------------------------------------------------------------ files


def test_a_table_of_requests_is_read(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(
        "gmt_create,predict_type,groupId,num_images_per_prompt,num_inference_steps\n"
        "2024-11-15 16:57:50,TXT_2_IMG,G0,1.0,30.0\n"
        "2024-11-15 16:57:52,TXT_2_IMG,G1,,\n"
        "2024-11-15 16:58:00,IMG_2_IMG,G1,8.0,40.0\n"
    )
    assert read_trace(file) == (Arrival(0.0, 30, 1, "G0"), Arrival(10.0, 40, 8, "G1"))


def test_pairs_of_milliseconds_and_prompts_are_read(tmp_path: Path) -> None:
    file = tmp_path / "trace.txt"
    file.write_text("636.0,4817\n1058.0,2143\n")
    assert [each.when for each in read_trace(file)] == pytest.approx([0.0, 0.422])


@pytest.mark.parametrize("text", ["", "no numbers\n", "1.0\n"])
def test_what_is_no_trace_is_said_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "trace").write_text(text)
    with pytest.raises(TraceError):
        read_trace(tmp_path / "trace")


def _profiles(tmp_path: Path) -> Path:
    stages = {"clip": [10, 11], "unet": [20, 25], "vae": [8, 12], "safety": [1, 1]}
    file = tmp_path / "profiles.json"
    file.write_text(json.dumps({"profiles": {"fast-m-512": stages, "fast-m-256": stages, "slow-m-512": stages}}))
    return file


def test_a_profile_is_read_by_its_name_and_by_its_prefix(tmp_path: Path) -> None:
    file = _profiles(tmp_path)
    profile = read_profile(f"{file}:fast-m-512")
    assert (profile.kind, profile.model) == ("fast", "m")
    assert profile.sizes == {512: KeyCosts((0.01, 0.011), (0.02, 0.025), (0.008, 0.012))}
    assert set(read_profile(f"{file}:fast-m-").sizes) == {256, 512}


def test_an_unknown_profile_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="fast-m-512"):
        read_profile(f"{_profiles(tmp_path)}:none")


def test_a_size_without_a_profile_grows_above_the_floor() -> None:
    measured = KeyCosts((0.01,), (0.02, 0.025), (0.008, 0.012))
    derived = costs_at({512: measured}, 1024)
    growth = 4**1.1
    assert derived.encode == measured.encode
    assert derived.step == pytest.approx((0.015 + growth * 0.005, 0.015 + growth * 0.010))
    assert costs_at({512: measured}, 512) is measured


def test_unlike_workers_take_the_profiles_in_turn_or_by_number() -> None:
    profiles = [Profile(kind, "m", {512: COSTS}) for kind in ("a", "b")]
    kinds = [device.kind for device in make_fleet(profiles, [3], ["m/512x512"], Bounds())]
    assert kinds == ["a", "b", "a"]
    kinds = [device.kind for device in make_fleet(profiles, [1, 2], ["m/512x512"], Bounds())]
    assert kinds == ["a", "b", "b"]


def test_the_mixed_workload_has_all_its_sizes() -> None:
    workload = Workload(jobs=2000, model="m", shapes=tuple((size, steps, steps, part) for size, steps, part in MIXED))
    fleet = make_fleet([Profile("kind", "m", {512: COSTS})], [1], workload.keys(), Bounds())
    asked = [each.key for each in make_instance(workload, fleet, 1, 2, 1).requests]
    shares = [asked.count(f"m/{size}x{size}") / len(asked) for size, _, _ in MIXED]
    assert shares == pytest.approx([part for _, _, part in MIXED], abs=0.03)
