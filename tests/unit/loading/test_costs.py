"""From a worker's log to costs, and from costs to settings."""

import json
from pathlib import Path

import pytest

from collodion.process.profile import read_profiles
from collodion.worker.config import WorkerConfig
from collodion.worker.families.simulated import CostTable, Simulated
from collodion.worker.outbox import Sample
from loading.costs import Batch, batches_of, recorded, server_profile, simulated_settings
from simulation.instance import Device, KeyCosts

KEY = "m/64x64"
COSTS = KeyCosts(encode=(0.01, 0.012), step=(0.1, 0.15, 0.2), decode=(0.05, 0.06))
DEVICE = Device("device", "kind", {KEY: COSTS}, max_batch=3, encode_batch=2, decode_batch=2)


def steps(size: int, *seconds: float, idle_s: float | None = None) -> list[Batch]:
    return [Batch("step", KEY, size, each, idle_s) for each in seconds]


def logged(sample: Sample) -> dict[str, object]:
    line: dict[str, object] = json.loads(json.dumps({"message": "a batch", **sample._asdict()}))
    return line


def test_batches_are_read_from_the_log_that_the_worker_writes() -> None:
    guided = Sample("step", "m", KEY, batch=4, seconds=0.2, evaluations=2, gap_s=0.001)
    encode = Sample("encode", "m", KEY, batch=3, seconds=0.01)
    lines = [{"message": "ready"}, logged(guided), logged(encode)]
    assert batches_of(lines) == [Batch("step", KEY, 2, 0.2, 0.001), Batch("encode", KEY, 3, 0.01, None)]


def test_a_recorded_cost_is_the_mean_of_the_run() -> None:
    found = recorded(steps(1, 0.1, 0.2, 0.3), DEVICE)
    assert found.device.costs[KEY].step[0] == pytest.approx(0.2)


def test_the_devices_idle_time_belongs_to_its_steps() -> None:
    found = recorded(steps(1, 0.1, 0.1, 0.1, idle_s=0.01), DEVICE)
    assert found.device.costs[KEY].step[0] == pytest.approx(0.11)


def test_sizes_that_did_not_occur_keep_the_profiles_shape() -> None:
    found = recorded(steps(1, 0.2, 0.2, 0.2), DEVICE)
    assert found.device.costs[KEY].step == pytest.approx((0.2, 0.3, 0.4))


def test_lanes_that_did_not_run_keep_the_profile() -> None:
    assert recorded([], DEVICE).device.costs[KEY] == COSTS


def test_noise_is_what_single_steps_deviate_from_their_size() -> None:
    found = recorded([*steps(1, 0.09, 0.11, 0.09, 0.11), *steps(2, 0.18, 0.22, 0.18, 0.22)], DEVICE)
    assert found.noise == pytest.approx(0.1)


def test_storing_is_recorded_too() -> None:
    stores = [Batch("store", KEY, 1, each) for each in (0.01, 0.03)]
    assert recorded([*steps(1, 0.1), *stores], DEVICE).store_s == pytest.approx(0.02)


def test_the_simulated_model_costs_what_the_profile_says() -> None:
    settings = dict(text.removeprefix("worker.").split("=") for text in simulated_settings(COSTS))
    table = CostTable.parse("simulated_step_ms", settings["simulated_step_ms"].split(","))
    assert [table.seconds(batch) for batch in (1, 2, 3)] == pytest.approx(COSTS.step)
    assert settings.keys() == {"simulated_step_ms", "simulated_encode_ms", "simulated_decode_ms"}


def test_the_scheduler_is_told_the_rows_of_the_model_that_runs(tmp_path: Path) -> None:
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps({"unit": "ms", "profiles": {"gpu-sd-64": {"unet": [10, 15]}}}))
    key = "simulated/64x64"
    (made,) = read_profiles(server_profile(f"{file}:gpu-sd-64", "simulated", key, tmp_path)).values()
    assert (made.key, made.rows) == (key, Simulated("simulated", WorkerConfig()).info.guided_rows)
