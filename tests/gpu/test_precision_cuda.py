"""Half precision and weights of 8 bits on a GPU: near float32, in graphs and compiled, refused where the hardware lacks them.

Written without a GPU at hand; run by `make test-gpu`.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest

torch = pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "worker" / "families"))

from tiny_models import autoencoder, save  # noqa: E402

from collodion.wire.jobs import Parameters  # noqa: E402
from collodion.worker.config import WorkerConfig  # noqa: E402
from collodion.worker.families.vae import Vae  # noqa: E402
from collodion.worker.models import load_models  # noqa: E402
from collodion.worker.optimize import unasked  # noqa: E402
from collodion.worker.optimize.errors import Unsuitable  # noqa: E402
from collodion.worker.optimize.precision import casting, recast, settle_vae, vae_dtype  # noqa: E402
from collodion.worker.optimize.quantization import quantizable, quantize  # noqa: E402
from collodion.worker.optimize.wishes import Precision, Quantization  # noqa: E402
from collodion.worker.weights import plain, stored_bytes  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
needs_torchao = pytest.mark.skipif(not unasked.installed("torchao"), reason="needs collodion[quantization]")

GPU = torch.device("cuda", 0)
FAMILIES = ("sd1", "sdxl", "sd35", "flux_dev", "qwen_image", "z_image")
BOUNDS = {"bfloat16": 0.05, "float16": 0.01}
KINDS = {Quantization.INT8: 0.01, Quantization.FP8: 0.05}


def unet(dtype):
    torch.manual_seed(0)
    made = diffusers.UNet2DConditionModel(
        block_out_channels=(128, 256),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
    )
    return made.eval().requires_grad_(requires_grad=False).to(GPU, dtype)


def inputs(dtype):
    generator = torch.Generator().manual_seed(1)
    sample, states = (torch.randn(4, *shape, generator=generator).to(GPU, dtype) for shape in ((4, 16, 16), (8, 128)))
    return sample, torch.tensor([900.0, 500.0, 20.0, 1.0], device=GPU), states


def distance(ours, right):
    return float((ours.float() - right.float()).norm() / right.float().norm())


def quantised(kind, dtype):
    model = unet(dtype)
    try:
        quantize(model, kind, GPU)
    except Unsuitable as unsuitable:
        assert kind is Quantization.FP8
        assert torch.cuda.get_device_capability(GPU) < (8, 9)
        pytest.skip(unsuitable.reason)
    return model


@needs_torchao
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_quantised_model_is_near_the_one_that_it_was(kind, dtype):
    exact, model = unet(dtype), quantised(kind, dtype)
    with torch.inference_mode():
        error = distance(model(*inputs(dtype))[0], exact(*inputs(dtype))[0])
    assert 1e-4 < error < KINDS[kind] + BOUNDS[str(dtype).removeprefix("torch.")]
    before, now = (sum(map(stored_bytes, each.parameters())) for each in (exact, model))
    layers = quantizable(exact).values()
    saved = sum(layer.weight.nbytes for layer in layers)
    assert now < before - 0.4 * saved


@needs_torchao
@pytest.mark.parametrize("kind", KINDS)
def test_it_takes_less_of_the_device(kind):
    torch.cuda.empty_cache()
    start = torch.cuda.memory_allocated(GPU)
    exact = unet(torch.bfloat16)
    whole = torch.cuda.memory_allocated(GPU) - start
    del exact
    model = quantised(kind, torch.bfloat16)
    assert torch.cuda.memory_allocated(GPU) - start < 0.95 * whole
    said = sum(map(stored_bytes, (*model.parameters(), *model.buffers())))
    assert torch.cuda.memory_allocated(GPU) - start == pytest.approx(said, rel=0.05)  # it allocates by 512 bytes


@needs_torchao
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_of_a_quantised_model_draws_what_it_draws(kind):
    model = quantised(kind, torch.bfloat16)
    static = inputs(torch.bfloat16)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(3):
            model(*static)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            drawn = model(*static, return_dict=False)[0]
    torch.cuda.current_stream().wait_stream(stream)
    with torch.inference_mode():
        static[0].copy_(static[0].flip(0))
        expected = model(*static, return_dict=False)[0]
        graph.replay()
    torch.cuda.synchronize()
    assert distance(drawn, expected) < 1e-3


@needs_torchao
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_block_says_what_it_says_eagerly(kind):
    block = quantised(kind, torch.bfloat16).mid_block.attentions[0].transformer_blocks[0]
    hidden = torch.randn(2, 64, 256, device=GPU, dtype=torch.bfloat16)
    states = torch.randn(2, 8, 128, device=GPU, dtype=torch.bfloat16)
    with torch.inference_mode():
        compiled = torch.compile(block, fullgraph=True)(hidden, encoder_hidden_states=states)
        assert distance(compiled, block(hidden, encoder_hidden_states=states)) < 0.02


@needs_torchao
def test_fp8_is_refused_by_a_gpu_without_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (8, 6))
    with pytest.raises(Unsuitable, match=r"8\.9"):
        quantize(unet(torch.bfloat16), Quantization.FP8, GPU)


@needs_torchao
@pytest.mark.parametrize("kind", KINDS)
def test_plain_weights_are_near_those_that_were_quantised(kind):
    exact, model = unet(torch.float16), quantised(kind, torch.float16)
    for path, layer in quantizable(exact).items():
        weight = plain(model.get_submodule(path).weight)
        assert weight.dtype is torch.float16
        assert distance(weight, layer.weight) < KINDS[kind]


def overflowing():
    torch.manual_seed(0)
    vae = autoencoder().eval().requires_grad_(requires_grad=False).to(GPU)
    for layer in (vae.decoder.conv_in, vae.decoder.mid_block.resnets[1].conv2):
        layer.weight.mul_(3e5)
    recast(vae, torch.float16)
    return SimpleNamespace(
        vae=Vae(vae, diffusers.image_processor.VaeImageProcessor(vae_scale_factor=8), 8),
        pipeline=SimpleNamespace(vae=vae),
        latent_shape=lambda width, height: (4, height // 8, width // 8),
    )


def test_a_vae_that_overflows_in_float16_becomes_as_wide_as_the_gpu_computes():
    architecture = overflowing()
    expected = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    assert settle_vae(architecture, Precision.AUTO, GPU).value == str(expected).removeprefix("torch.")
    assert architecture.vae.dtype is expected
    assert architecture.vae.decode(torch.randn(1, 4, 8, 8, device=GPU)).isfinite().all()
    known = {"force_upcast": True, "scaling_factor": 0.13025}
    assert vae_dtype(Precision.AUTO, torch.float16, known, GPU) is expected
    with pytest.raises(Unsuitable):
        settle_vae(overflowing(), Precision.FLOAT16, GPU)


def test_a_denoiser_of_several_precisions_is_captured_in_autocast():
    model = unet(torch.float16)
    recast(model.mid_block, torch.float32)
    static = inputs(torch.float16)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(3):
            with casting(model)():
                model(*static)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream), casting(model)():
            drawn = model(*static, return_dict=False)[0]
    torch.cuda.current_stream().wait_stream(stream)
    with torch.inference_mode():
        static[0].copy_(static[0].flip(0))
        graph.replay()
        with casting(model)():
            expected = model(*static, return_dict=False)[0]
    torch.cuda.synchronize()
    assert distance(drawn, expected) < 1e-3


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")

    def loaded(name, device, *optimize):
        folder = root / name if (root / name).exists() else save(name, root / name)
        return load_models(WorkerConfig(models=(f"{name}={folder}",), device=device, optimize=optimize))[1][name]

    return loaded


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_draws_in_half_precision_nearly_what_it_draws_in_float32_on_a_cpu(name, dtype, load):
    latents = []
    for pipeline in (load(name, "cuda:0", f"dtype={dtype}"), load(name, "cpu", "dtype=float32")):
        sampler = pipeline.info.default_sampler
        jobs = [
            Parameters(name, "a red circle", "blue", 64, 64, 3, sampler, 1.0 + 3 * (seed % 2), seed, 1)
            for seed in range(2)
        ]
        plans = [pipeline.prepare(job) for job in jobs]
        texts = pipeline.encode(plans).conditioning
        states = [pipeline.begin(plan, one, job.seed) for plan, one, job in zip(plans, texts, jobs, strict=True)]
        while running := [state for state in states if not state.trajectory.finished]:
            pipeline.step(running).span.wait()
        assert all(state.trajectory.state.dtype is torch.float32 for state in states)
        decoded = pipeline.decode(states)
        decoded.span.wait()
        assert all(picture is not None for picture in decoded.pictures())
        latents.append([state.trajectory.latent.cpu() for state in states])
    assert max(distance(ours, right) for ours, right in zip(*latents, strict=True)) < BOUNDS[dtype]
