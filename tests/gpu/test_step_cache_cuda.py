"""Step caches on a GPU: latents decide as they do on a CPU, and the host waits for the device once in a call.

Written without a GPU at hand; run by `make test-gpu`.
"""

import copy
import sys
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

_UNIT = Path(__file__).parents[1] / "unit"
sys.path[:0] = [str(_UNIT / "step_cache"), str(_UNIT / "worker" / "families")]

from walking import Walker, apart, architecture, call_of, step, walk  # noqa: E402

from collodion.worker.step_cache.reuse import StepCache  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

THRESHOLDS = {"sd1": 0.1, "sdxl": 0.13, "sd35": 0.08, "flux_dev": 0.1, "qwen_image": 0.13, "z_image": 0.5}
RED, GREEN = "a red circle", "two small green squares and many more"


@pytest.fixture(scope="module")
def on_gpu():
    """A tiny model on the GPU, in this dtype."""

    def load(name, dtype=torch.float32):
        model = copy.deepcopy(architecture(name))
        model.pipeline.to("cuda:0", dtype)
        return model

    return load


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def crowd(threshold):
    return [
        Walker((RED, "blue"), 1, threshold),
        Walker((GREEN, "blue"), 2),
        Walker((RED,), 3, 1e9),
        Walker((GREEN, RED), 4, 1e-9),
    ]


def waits(action):
    """How often the host waited for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            action()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in told)


@pytest.mark.parametrize("name", THRESHOLDS)
def test_latents_decide_as_they_do_on_a_cpu(name, on_gpu):
    ours, theirs = crowd(THRESHOLDS[name]), crowd(THRESHOLDS[name])
    walk(on_gpu(name), ours)
    walk(architecture(name), theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.reused == other.reused
        assert apart(one.outputs[-1].cpu(), other.outputs[-1]) < 1e-2


@pytest.mark.parametrize("name", THRESHOLDS)
def test_the_parts_one_after_the_other_are_the_denoiser(name, on_gpu):
    model = on_gpu(name)
    walkers = crowd(0.1)
    for walker in walkers:
        walker.begin(model)
    rows = call_of(walkers)[0]
    with torch.inference_mode():
        parts = model.parts()
        carried, _ = parts.shallow(model.call(rows))
        output = model.answer(parts.tail(carried, parts.deep(carried)), rows)
        assert apart(output, model.predict(rows)) < 1e-6


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd35", "flux_dev"])
def test_the_host_waits_once_for_the_decisions_and_only_where_somebody_may_reuse(name, on_gpu):
    model = on_gpu(name)
    walkers, cache = crowd(1e9), StepCache(model)
    for walker in walkers:
        walker.begin(model)
    with torch.inference_mode():
        rows, _ = call_of(walkers)
        own = waits(lambda: model.predict(rows))
        laying_out = waits(lambda: call_of(walkers))
        assert waits(lambda: step(cache, walkers)) - laying_out == own  # nobody has anything to reuse yet
        assert waits(lambda: step(cache, walkers)) - laying_out == own + 1
    assert walkers[0].reused == [False, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd35", "flux_dev"])
def test_half_precision_reuses_too(name, dtype, on_gpu):
    ours = crowd(2 * THRESHOLDS[name])
    walk(on_gpu(name, dtype), ours)
    assert any(ours[0].reused)
    assert all(output.isfinite().all() for walker in ours for output in walker.outputs)
    assert ours[2].outputs[-1].dtype is dtype
