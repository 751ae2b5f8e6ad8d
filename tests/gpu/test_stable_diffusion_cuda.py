"""Stable Diffusion on a GPU: the same pictures as diffusers draws there, and nothing that waits for the device.

Written without a GPU at hand; run by `make test-gpu`.
"""

import diffusers
import pytest

torch = pytest.importorskip("torch")

from collodion.wire.jobs import Parameters  # noqa: E402
from collodion.worker.config import WorkerConfig  # noqa: E402
from collodion.worker.models import EMBEDDED, load_models  # noqa: E402
from collodion.worker.optimize.wishes import Precision  # noqa: E402
from collodion.worker.sampling.catalog import SAMPLERS  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CASES = ("ddim", "euler_a", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc")


@pytest.fixture(scope="module", params=[Precision.FLOAT32, Precision.FLOAT16])
def dtype(request):
    return request.param


@pytest.fixture(scope="module")
def shapes(dtype):
    device, pipelines = load_models(WorkerConfig(models=("shapes",), device="cuda:0", optimize=(f"dtype={dtype}",)))
    assert device == "cuda:0"
    return pipelines["shapes"]


def parameters(sampler, seed):
    return Parameters("shapes", "a red circle", "blue", 32, 32, 20, sampler, 4.0 if seed % 2 else 1.0, seed, 1)


def run(pipeline, jobs):
    """All in one batch, as the engine would; the final latents."""
    plans = [pipeline.prepare(job) for job in jobs]
    conditioning = pipeline.encode(plans).conditioning
    states = [pipeline.begin(plan, one, job.seed) for plan, one, job in zip(plans, conditioning, jobs, strict=True)]
    running = list(states)
    while running:
        stepped = pipeline.step(running)
        stepped.span.wait()
        assert stepped.non_finite() == []
        running = [state for state in running if not state.trajectory.finished]
    decoded = pipeline.decode(states)
    decoded.span.wait()
    return [state.trajectory.latent for state in states], decoded.pictures()


def reference(job, dtype):
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        EMBEDDED, dtype=torch.float32 if dtype is Precision.FLOAT32 else torch.float16, safety_checker=None
    ).to("cuda:0")
    pipeline.set_progress_bar_config(disable=True)
    entry = SAMPLERS[job.sampler]
    pipeline.scheduler = getattr(diffusers, entry.scheduler).from_config(pipeline.scheduler.config, **entry.overrides)
    return pipeline(
        job.prompt,
        negative_prompt=job.negative_prompt,
        num_inference_steps=job.steps,
        guidance_scale=job.guidance_scale,
        generator=torch.Generator().manual_seed(job.seed),
        height=job.height,
        width=job.width,
        output_type="latent",
    ).images[0]


def test_latents_in_a_mixed_batch_equal_those_of_diffusers(shapes, dtype):
    jobs = [parameters(sampler, seed) for seed, sampler in enumerate(CASES)]
    latents, pictures = run(shapes, jobs)
    # Half precision rounds every model output to 3 digits, and diffusers its latents too.
    bound = 1e-4 if dtype is Precision.FLOAT32 else 5e-2
    for job, latent, picture in zip(jobs, latents, pictures, strict=True):
        expected = reference(job, dtype).float()
        assert float((latent - expected).abs().max() / expected.abs().max()) < bound
        assert picture.shape == (32, 32, 3)


def test_a_step_is_issued_without_waiting_for_the_device(shapes):
    plan = shapes.prepare(parameters("euler_a", 1))
    state = shapes.begin(plan, shapes.encode([plan]).conditioning[0], 1)
    shapes.step([state]).span.wait()  # kernels are chosen and memory is taken in the first one
    torch.cuda.set_sync_debug_mode("error")
    try:
        stepped = shapes.step([state])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert stepped.span.wait() > 0


def test_a_latent_begins_and_joins_a_batch_without_waiting_for_the_device(shapes):
    plan = shapes.prepare(parameters("euler_a", 1))
    (conditioning,) = shapes.encode([plan]).conditioning
    states = [shapes.begin(plan, conditioning, seed) for seed in (1, 2)]
    for batch in ([states[0]], states):
        shapes.step(batch).span.wait()
    torch.cuda.set_sync_debug_mode("error")
    try:
        stepped = shapes.step([*states, shapes.begin(plan, conditioning, 3)])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert stepped.span.wait() > 0


def test_a_spilled_latent_leaves_the_device_without_waiting_and_goes_on_as_it_was(shapes):
    plan = shapes.prepare(parameters("dpmpp_2m", 1))
    kept, spilled = (shapes.begin(plan, shapes.encode([plan]).conditioning[0], 1) for _ in range(2))
    for _ in range(3):
        shapes.step([kept]).span.wait()
        shapes.step([spilled]).span.wait()
    shapes.park(spilled)
    torch.cuda.set_sync_debug_mode("error")
    try:
        shapes.spill(spilled)
        on_host = spilled.trajectory.state
        shapes.recall(spilled)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert on_host.is_pinned()
    assert on_host.device.type == "cpu"
    shapes.step([kept]).span.wait()
    shapes.step([spilled]).span.wait()
    assert bool((kept.trajectory.state == spilled.trajectory.state).all())
    assert spilled.conditioning.texts[0]["states"].is_cuda


def test_the_gap_between_two_steps_is_measured_on_the_device(shapes):
    plan = shapes.prepare(parameters("ddim", 1))
    state = shapes.begin(plan, shapes.encode([plan]).conditioning[0], 1)
    first, second = shapes.step([state]), shapes.step([state])
    first.span.wait()
    second.span.wait()
    assert second.span.gap_after(first.span) >= 0
