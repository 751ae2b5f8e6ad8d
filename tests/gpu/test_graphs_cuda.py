"""The step, the text encoders and the VAE through CUDA graphs: what they draw is what they draw eagerly, and nothing falls back.

Written without a GPU at hand; run by `make test-gpu`.
"""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "worker" / "families"))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "optimize"))

from replaying import Notes  # noqa: E402
from tiny_models import save  # noqa: E402

from collodion.wire.jobs import Parameters  # noqa: E402
from collodion.worker.config import WorkerConfig  # noqa: E402
from collodion.worker.models import open_library  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

FAMILIES = ("sd1", "sdxl", "flux_dev", "sd35")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return lambda name: root / name if (root / name).exists() else save(name, root / name)


def load(name, folder, notes, *words):
    config = WorkerConfig(
        models=(f"{name}={folder}",),
        device="cuda:0",
        max_batch=4,
        optimize=("dtype=float32", "sizes=64x64", "memory_format=contiguous", *words),
    )
    library = open_library(config, observer_for=lambda _: notes)
    library.shelf.look()
    return library.shelf.load(name, lambda _: None)


def jobs_of(model, prompts=("a red circle", "two blue squares", "nothing at all")):
    samplers = [name for name in ("euler_a", "dpmpp_2m", "unipc") if name in model.info.samplers]
    return [
        Parameters(
            model.info.name,
            prompt,
            "",
            64,
            64,
            4 + number,
            samplers[number % len(samplers)],
            (4.0, 1.0, 2.5)[number % 3],
            number,
            1,
        )
        for number, prompt in enumerate(prompts)
    ]


def run(model, jobs):
    plans = [model.prepare(job) for job in jobs]
    conditioning = model.encode(plans).conditioning
    states = [model.begin(plan, one, job.seed) for plan, one, job in zip(plans, conditioning, jobs, strict=True)]
    while running := [state for state in states if not state.trajectory.finished]:
        stepped = model.step(running)
        stepped.span.wait()
        assert stepped.non_finite() == []
    decoded = model.decode(states)
    decoded.span.wait()
    assert all(picture is not None for picture in decoded.pictures())
    return [state.trajectory.latent.cpu() for state in states]


def distance(ours, expected):
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in zip(ours, expected, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_strangers_draw_through_graphs_what_they_draw_eagerly(name, folders, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    notes = Notes()
    captured = load(name, folders(name), notes, "cuda_graphs=on")
    eager = load(name, folders(name), Notes(), "cuda_graphs=off")
    assert notes.ready
    assert distance(run(captured, jobs_of(captured)), run(eager, jobs_of(eager))) < 1e-3
    assert notes.fallbacks == []


@pytest.mark.parametrize("name", FAMILIES)
def test_two_prompts_through_one_graph_are_two_pictures(name, folders):
    notes = Notes()
    model = load(name, folders(name), notes, "cuda_graphs=on")
    one, other = (jobs_of(model, (prompt,)) for prompt in ("a red circle", "two blue squares"))
    first, second, again = run(model, one), run(model, other), run(model, one)
    assert notes.fallbacks == []
    assert torch.equal(first[0], again[0])
    assert distance(first, second) > 1e-3


def test_rows_that_only_fill_up_leak_into_no_other(folders):
    model = load("sd1", folders("sd1"), Notes(), "cuda_graphs=on")
    jobs = jobs_of(model)
    assert distance(run(model, jobs), [run(model, [job])[0] for job in jobs]) < 1e-3


def test_another_size_is_captured_at_rest(folders):
    notes = Notes()
    model = load("sd1", folders("sd1"), notes, "cuda_graphs=on")
    job = Parameters("sd1", "a red circle", "", 96, 64, 4, "euler", 4.0, 1, 1)
    first = run(model, [job])
    assert set(notes.fallbacks) == {"not_ready"}
    while model.tidy():
        pass
    notes.fallbacks.clear()
    assert distance(run(model, [job]), first) < 1e-3
    assert notes.fallbacks == []


def test_what_is_compiled_is_captured(folders):
    notes = Notes()
    both = load("sd1", folders("sd1"), notes, "cuda_graphs=on", "compile=regional")
    eager = load("sd1", folders("sd1"), Notes(), "cuda_graphs=off")
    assert distance(run(both, jobs_of(both)), run(eager, jobs_of(eager))) < 1e-3
    assert notes.fallbacks == []
    assert notes.recompilations == 0
