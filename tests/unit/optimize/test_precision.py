"""Half precision: how far every family's latents are from those in float32, and what stays float32 or becomes wider."""

import copy
import functools
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "worker" / "families"))

from tiny_models import autoencoder, save, unet

from collodion.wire.jobs import Parameters
from collodion.worker.config import WorkerConfig
from collodion.worker.families.vae import Vae
from collodion.worker.models import load_models
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.precision import (
    MOST,
    casting,
    largest_activation,
    needs_autocast,
    recast,
    settle_vae,
    vae_dtype,
)
from collodion.worker.optimize.wishes import Precision
from collodion.worker.registry import read_model
from collodion.worker.registry.loading import load_parts

CPU = torch.device("cpu")
SHAPES = Path(__file__).parents[3] / "worker" / "collodion" / "worker" / "shapes"
FAMILIES = ("sd1", "sdxl", "sd35", "flux_dev", "qwen_image", "z_image")
SAMPLERS = ("euler", "dpmpp_2m", "euler_a", "heun", "unipc", "lcm")
BOUNDS = {
    "bfloat16": 0.05,
    "float16": 0.01,
}  # of the latent, by its norm, after guidance; weights that were trained amplify less


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return lambda name: root / name if (root / name).exists() else save(name, root / name)


@pytest.fixture(scope="module")
def load(folder_of):
    def loaded(name, dtype):
        config = WorkerConfig(
            models=(f"{name}={folder_of(name)}",), device="cpu", threads=1, optimize=(f"dtype={dtype}",)
        )
        return load_models(config)[1][name]

    return loaded


def jobs_of(pipeline):
    """Guided and not, by different samplers, in one batch."""
    name, samplers = pipeline.info.name, [each for each in SAMPLERS if each in pipeline.info.samplers]
    return [
        Parameters(name, "a red circle", "blue" * (seed % 2), 64, 64, 2 + seed, sampler, 1.0 + 3 * (seed % 2), seed, 1)
        for seed, sampler in enumerate(samplers[:3])
    ]


def draw(pipeline, jobs, watch=lambda state: None):
    """The final latents of a batch, and its pictures."""
    plans = [pipeline.prepare(job) for job in jobs]
    conditioning = pipeline.encode(plans).conditioning
    states = [pipeline.begin(plan, one, job.seed) for plan, one, job in zip(plans, conditioning, jobs, strict=True)]
    while running := [state for state in states if not state.trajectory.finished]:
        pipeline.step(running)
        for state in running:
            watch(state)
    return [state.trajectory.latent for state in states], pipeline.decode(states).pictures()


@pytest.fixture(scope="module")
def exact(load):
    """What a family draws in float32."""
    return functools.cache(lambda name: draw(pipeline := load(name, "float32"), jobs_of(pipeline))[0])


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_draws_in_half_precision_nearly_what_it_draws_in_float32(name, dtype, load, exact):
    pipeline, seen = load(name, dtype), set()
    latents, pictures = draw(pipeline, jobs_of(pipeline), lambda state: seen.add(state.trajectory.state.dtype))
    assert seen == {torch.float32}
    assert len(pictures) == 3
    assert all(picture is not None for picture in pictures)  # None: not finite
    errors = [float((ours - right).norm() / right.norm()) for ours, right in zip(latents, exact(name), strict=True)]
    assert 1e-5 < max(errors) < BOUNDS[dtype]  # nor was it float32 all the same
    # Nothing that was drawn leaves weights that could not be compiled or trained, and no family of today needs autocast.
    tensors = [tensor for module in pipeline._modules() for tensor in (*module.parameters(), *module.buffers())]
    assert len(tensors) > 100
    assert not any(tensor.is_inference() for tensor in tensors)
    denoiser = pipeline._architecture.denoiser
    assert {parameter.dtype for parameter in denoiser.parameters()} == {getattr(torch, dtype)}
    assert not needs_autocast(denoiser)
    assert casting(denoiser) is nullcontext


def test_a_denoiser_of_several_precisions_runs_in_autocast_and_in_nothing_else():
    torch.manual_seed(0)
    exact = unet().eval().requires_grad_(requires_grad=False)
    mixed = copy.deepcopy(exact)
    recast(mixed, torch.bfloat16)
    recast(mixed.conv_norm_out, torch.float32)
    recast(mixed.mid_block, torch.float32)
    inputs = {"sample": torch.randn(2, 4, 8, 8), "encoder_hidden_states": torch.randn(2, 7, 16)}
    half = {name: tensor.bfloat16() for name, tensor in inputs.items()}
    timesteps = torch.tensor([900.0, 100.0])
    assert needs_autocast(mixed)
    with torch.inference_mode(), pytest.raises(RuntimeError):
        mixed(timestep=timesteps, **half)
    with torch.inference_mode():
        with casting(mixed)():
            ours = mixed(timestep=timesteps, **half, return_dict=False)[0]
        expected = exact(timestep=timesteps, **inputs, return_dict=False)[0]
    assert float((ours - expected).abs().max() / expected.abs().max()) < 0.05


@pytest.mark.parametrize(
    ("wish", "model", "config", "expected"),
    [
        ("auto", torch.float32, {"force_upcast": True}, torch.float32),
        ("auto", torch.bfloat16, {"force_upcast": True}, torch.bfloat16),
        ("auto", torch.float16, {"force_upcast": True, "scaling_factor": 0.13025}, torch.float32),  # on a CPU
        ("auto", torch.float16, {"force_upcast": True, "scaling_factor": 0.18215}, torch.float16),  # to be proved
        ("auto", torch.float16, {"force_upcast": False}, torch.float16),
        ("auto", torch.float16, {}, torch.float16),
        ("float16", torch.bfloat16, {"force_upcast": True}, torch.float16),
        ("float32", torch.float16, {}, torch.float32),
        ("bfloat16", torch.float32, {}, torch.bfloat16),
    ],
)
def test_a_vae_is_of_its_models_precision_unless_it_overflows_in_it(wish, model, config, expected):
    assert vae_dtype(Precision(wish), model, config, CPU) is expected


@pytest.mark.parametrize(("capable", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_on_a_gpu_a_vae_that_overflows_is_of_bfloat16_where_there_is_any(capable, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: capable)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    wished = vae_dtype(
        Precision.AUTO, torch.float16, {"force_upcast": True, "scaling_factor": 0.13025}, torch.device("cuda", 0)
    )
    assert wished is expected


def drawing_with(module):
    """What `settle_vae` needs of an architecture around this VAE."""
    return SimpleNamespace(
        vae=Vae(module, VaeImageProcessor(vae_scale_factor=8), 8),
        pipeline=SimpleNamespace(vae=module),
        latent_shape=lambda width, height: (module.config.latent_channels, height // 8, width // 8),
    )


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return autoencoder().eval().requires_grad_(requires_grad=False)


def overflowing(vae):
    """In its up blocks, whose sums no norm bounds, as SDXL's does."""
    with torch.no_grad():
        for layer in (vae.decoder.conv_in, vae.decoder.mid_block.resnets[1].conv2):
            layer.weight.mul_(3e5)
    return vae


def test_a_float16_vae_is_proved(vae):
    recast(vae, torch.float16)
    said = settle_vae(drawing_with(vae), Precision.FLOAT16, CPU)
    assert (said.name, said.value) == ("vae_dtype", "float16")
    assert "65,504" in said.detail


def test_float16_is_refused_for_a_vae_that_overflows_in_it(vae):
    recast(overflowing(vae), torch.float16)
    assert not vae.decode(torch.randn(1, 4, 8, 8).half()).sample.isfinite().all()
    with pytest.raises(Unsuitable, match=r"^vae_dtype=float16: .* overflows"):
        settle_vae(drawing_with(vae), Precision.FLOAT16, CPU)


def test_what_is_near_the_end_of_float16_is_refused_too(vae):
    """What is tried was made up: half of the range is left for what was not."""
    recast(vae, torch.float16)
    vae.decoder.conv_norm_out.register_forward_hook(
        lambda _layer, _inputs, output: output.new_full((), 40_000) + output * 0
    )
    assert float(vae.decode(torch.randn(1, 4, 8, 8).half()).sample.isfinite().all())
    assert largest_activation(drawing_with(vae)) > MOST
    with pytest.raises(Unsuitable):
        settle_vae(drawing_with(vae), Precision.FLOAT16, CPU)


def test_nobody_asked_for_float16_so_a_vae_that_overflows_becomes_wider_and_others_keep_their_weights(vae):
    recast(overflowing(vae), torch.float16)
    shared = [parameter.data for parameter in vae.parameters()]
    architecture = drawing_with(vae)
    said = settle_vae(architecture, Precision.AUTO, CPU)
    assert (said.value, architecture.vae.dtype) == ("float32", torch.float32)
    assert {tensor.dtype for tensor in shared} == {torch.float16}
    assert architecture.vae.decode(torch.randn(1, 4, 8, 8)).isfinite().all()


@pytest.mark.parametrize("wish", ["float32", "bfloat16", "float16"])
def test_a_vae_that_was_read_in_another_precision_is_made_what_was_asked_for(wish, vae):
    architecture = drawing_with(vae)
    said = settle_vae(architecture, Precision(wish), CPU)
    assert (said.value, architecture.vae.dtype) == (wish, getattr(torch, wish))


def test_a_wide_vae_needs_no_proof(vae):
    assert settle_vae(drawing_with(overflowing(vae)), Precision.AUTO, CPU).value == "float32"


@pytest.mark.parametrize(
    ("words", "dtype"), [(("dtype=bfloat16", "vae_dtype=float32"), torch.float32), (("dtype=float16",), torch.float32)]
)
def test_a_wider_vae_is_read_as_its_file_has_it(words, dtype, tmp_path):
    """And not rounded to what the rest of the model computes in; that nobody asked for float16 is known from its file."""
    folder = save("sdxl", tmp_path / "sdxl")
    config = folder / "vae" / "config.json"
    said = {**json.loads(config.read_text()), "force_upcast": True, "scaling_factor": 0.13025}
    config.write_text(json.dumps(said))
    settings = WorkerConfig(models=(f"sdxl={folder}",), device="cpu", threads=1, optimize=words)
    pipeline = load_models(settings)[1]["sdxl"]._architecture.pipeline
    exact = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    assert pipeline.vae.dtype is dtype
    assert pipeline.unet.dtype is not dtype
    assert all(torch.equal(tensor, exact[name]) for name, tensor in pipeline.vae.state_dict().items())


def test_bfloat16_costs_the_embedded_models_vae_no_more_than_can_be_seen():
    parts = load_parts(read_model(SHAPES, "shapes"), torch.float32, CPU)
    exact = Vae(parts["vae"], VaeImageProcessor(vae_scale_factor=8), 8)
    half = copy.deepcopy(parts["vae"])
    recast(half, torch.bfloat16)
    pictures = torch.randint(2, (4, 3, 4, 4), generator=torch.Generator().manual_seed(0)).float() * 2 - 1
    latents = exact.normalise(
        torch.stack([one.mean for one in exact.encode(pictures.repeat_interleave(16, -1).repeat_interleave(16, -2))])
    )
    right = exact.pixels(exact.decode(latents)).float()
    ours = exact.pixels(Vae(half, exact.image_processor, 8).decode(latents)).float()
    psnr = 10 * torch.log10(255**2 / (ours - right).square().mean())
    assert float(psnr) > 45
