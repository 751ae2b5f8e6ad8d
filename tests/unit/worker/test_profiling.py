"""What the measuring process measures, and what it leaves out."""

from collections.abc import Sequence
from typing import Any

import pytest

from collodion.process.config import ConfigError
from collodion.worker import profiling
from collodion.worker.families.simulated import Simulated, SimulatedLatent
from collodion.worker.pipeline import Decoded, Stepped
from collodion.worker.profiling import ProfilingConfig, profile

FAST = {"simulated_step_ms": ("1:1",), "simulated_encode_ms": ("0",), "simulated_decode_ms": ("0",)}


class Small(Simulated):
    """A model on a device that decodes two latents at once and steps three, and one whose calls are counted."""

    run_ahead = 1

    def step(self, states: Sequence[SimulatedLatent]) -> Stepped:
        if len(states) > 3:
            raise MemoryError
        return super().step(states)

    def decode(self, states: Sequence[SimulatedLatent]) -> Decoded:
        if len(states) > 2:
            raise MemoryError
        return super().decode(states)


def said(config: ProfilingConfig) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    profile(config, lambda event, **facts: events.append({"event": event, **facts}))
    return events


def small(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> ProfilingConfig:
    config = ProfilingConfig(models=("small",), rounds=2, **FAST, **settings)
    monkeypatch.setattr(profiling, "load_models", lambda _: ("simulated", {"small": Small("small", config)}))
    return config


def test_every_size_is_measured_as_often_as_asked_and_progress_ends_at_its_total(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, *progress, one, two = said(small(monkeypatch, batches=("1-2",), sizes=("64x64", "96x64")))
    assert first["event"] == "loaded"
    assert [event["event"] for event in progress] == ["measured"] * first["total"]
    assert [(each["event"], each["key"]) for each in (one, two)] == [
        ("profile", "small/64x64"),
        ("profile", "small/96x64"),
    ]
    for lanes in (one["lanes"], two["lanes"], one["quartiles"]):
        assert [(lane, sorted(costs)) for lane, costs in lanes.items()] == [
            ("encode", [1, 2]),
            ("step", [1, 2]),
            ("decode", [1, 2]),
        ]
    low, high = one["quartiles"]["step"][2]
    assert low <= one["lanes"]["step"][2] <= high
    assert one["store_s"] > 0.0


def test_what_does_not_fit_is_left_out_with_all_that_is_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    events = said(small(monkeypatch, batches=("1-5",), sizes=("64x64",)))
    left_out = [(event["lane"], event["batch"]) for event in events if event["event"] == "left_out"]
    assert left_out == [("decode", 3), ("step", 4)]
    assert {lane: sorted(costs) for lane, costs in events[-1]["lanes"].items()} == {
        "encode": [1, 2, 3, 4, 5],
        "step": [1, 2, 3],
        "decode": [1, 2],
    }


def test_where_nothing_fits_that_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="not even a batch of 4 at 64x64 fits"):
        said(small(monkeypatch, batches=("4",), sizes=("64x64",)))


def test_a_worker_that_pads_is_measured_up_to_what_it_pads_to(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(monkeypatch, batches=("1-3",), reproducible=True, max_batch=2, encode_batch=3, decode_batch=1)
    lanes = said(config)[-1]["lanes"]
    assert {lane: max(costs) for lane, costs in lanes.items()} == {"encode": 3, "step": 2, "decode": 1}


@pytest.mark.parametrize(
    ("batches", "chosen"), [(("3",), [3]), (("1-4",), [1, 2, 3, 4]), (("8", "1-2", " 2-3"), [1, 2, 3, 8])]
)
def test_batches_are_numbers_and_ranges(batches: tuple[str, ...], chosen: list[int]) -> None:
    assert profiling._batches(batches) == chosen


@pytest.mark.parametrize("batches", [("",), ("0",), ("-1",), ("2-1",), ("1-2-3",), ("1-",), ("x",), ("1025",), ()])
def test_other_batches_are_refused(batches: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="batches"):
        profiling._batches(batches)


def test_several_models_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match="has to be one model"):
        said(ProfilingConfig(models=("simulated", "shapes")))
