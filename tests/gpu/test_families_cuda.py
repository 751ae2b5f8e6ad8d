"""Every family on a GPU: what it draws there is what it draws on a CPU, beside others that load, with adapters by the row.

Written without a GPU at hand; run by `make test-gpu`.
"""

import sys
import threading
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "worker" / "families"))

from tiny_models import MODELS, save  # noqa: E402

from collodion.wire.jobs import Parameters  # noqa: E402
from collodion.worker.config import WorkerConfig  # noqa: E402
from collodion.worker.models import load_models, open_library  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return lambda name: root / name if (root / name).exists() else save(name, root / name)


def load(name, folder, device):
    config = WorkerConfig(models=(f"{name}={folder}",), device=device, optimize=("dtype=float32",))
    return load_models(config)[1][name]


def run(pipeline, jobs):
    """All in one batch, as the engine would; the final latents, on the CPU."""
    plans = [pipeline.prepare(job) for job in jobs]
    conditioning = pipeline.encode(plans).conditioning
    states = [pipeline.begin(plan, one, job.seed) for plan, one, job in zip(plans, conditioning, jobs, strict=True)]
    while running := [state for state in states if not state.trajectory.finished]:
        pipeline.step(running).span.wait()
    decoded = pipeline.decode(states)
    decoded.span.wait()
    assert all(picture is not None for picture in decoded.pictures())
    return [state.trajectory.latent.cpu() for state in states]


@pytest.mark.parametrize("name", MODELS)
def test_a_family_draws_on_a_gpu_what_it_draws_on_a_cpu(name, folders, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    on_gpu, on_cpu = (load(name, folders(name), device) for device in ("cuda:0", "cpu"))
    sampler = on_gpu.info.default_sampler
    jobs = [
        Parameters(name, "a red circle", "blue", 64, 64, 4 + seed, sampler, 1.0 + 3 * (seed % 2), seed, 1)
        for seed in range(3)
    ]
    for ours, expected in zip(run(on_gpu, jobs), run(on_cpu, jobs), strict=True):
        assert float((ours - expected).abs().max() / expected.abs().max()) < 1e-2


def test_a_step_beside_a_loading_model_is_the_same_step(folders, tmp_path):
    directory = tmp_path / "models"
    directory.mkdir()
    for name in ("sd1", "sdxl"):
        (directory / name).symlink_to(folders(name))
    config = WorkerConfig(models=(), models_dir=directory, device="cuda:0", optimize=("dtype=float32",))
    shelf = open_library(config).shelf
    shelf.look()
    model = shelf.load("sd1", lambda _: None)
    job = Parameters("sd1", "a red circle", "", 64, 64, 20, "ddim", 1.0, 1, 1)
    (expected,) = run(model, [job])
    loading = threading.Thread(target=shelf.load, args=("sdxl", lambda _: None))
    loading.start()
    (beside,) = run(model, [job])
    loading.join(60)
    assert not loading.is_alive()
    assert bool((beside == expected).all())
