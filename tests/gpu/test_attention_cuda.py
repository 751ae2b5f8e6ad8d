"""Attention's kernels, fused projections and channels last on a GPU: what they compute is what SDPA and plain layers compute.

And a CUDA graph can hold them: nothing in them waits for the device. Written without a GPU at hand; run by `make test-gpu`.
"""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "optimize"))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "adapters"))

from diffusers import AutoencoderKL  # noqa: E402
from small_denoisers import DENOISERS, MASKED, UNETS, call_of, denoiser, far, run, unet  # noqa: E402
from written_files import diffusers_file, linear_only  # noqa: E402

from collodion.worker.adapters.adapters import AdapterBudgets, Adapters  # noqa: E402
from collodion.worker.optimize.attention import takes_masks, use_attention  # noqa: E402
from collodion.worker.optimize.errors import Unsuitable  # noqa: E402
from collodion.worker.optimize.memory_format import lay_channels_last  # noqa: E402
from collodion.worker.optimize.projections import fuse_projections  # noqa: E402
from collodion.worker.optimize.wishes import Attention  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GPU = torch.device("cuda:0")
OWN = (Attention.SDPA, Attention.SDPA_EFFICIENT, Attention.SDPA_MATH)
"""Kernels that every GPU has for every model here."""
BOUND = {torch.float16: 2e-2, torch.bfloat16: 8e-2, torch.float32: 2e-3}


def on_gpu(value, dtype):
    if isinstance(value, torch.Tensor):
        return value.to(GPU, dtype if value.is_floating_point() else None)
    if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
        return [on_gpu(each, dtype) for each in value]
    return value


def call_on_gpu(name, rows, dtype, mixed=False):
    return {key: on_gpu(value, dtype) for key, value in call_of(name, rows, mixed).items()}


def used_or_refused(model, backend, dtype):
    """Skips the test where the backend says why it cannot work here."""
    try:
        return use_attention(model, backend, GPU, dtype)
    except Unsuitable as unsuitable:
        pytest.skip(unsuitable.reason)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", Attention)
@pytest.mark.parametrize("name", DENOISERS)
def test_a_backend_computes_what_sdpa_does(name, backend, dtype):
    model = denoiser(name, dtype).to(GPU)
    calls = [call_on_gpu(name, 3, dtype, mixed) for mixed in (False, name in MASKED)]
    plain, masked = (run(model, call) for call in calls)
    told = used_or_refused(model, backend, dtype)
    assert "attentions; at most" in told.detail
    assert far(run(model, calls[0]), plain) < BOUND[dtype]
    if takes_masks(model):
        assert far(run(model, calls[1]), masked) < BOUND[dtype]


@pytest.mark.parametrize("backend", OWN)
@pytest.mark.parametrize("name", DENOISERS)
def test_kernels_that_every_gpu_has_are_not_refused(name, backend):
    use_attention(denoiser(name, torch.float16).to(GPU), backend, GPU, torch.float16)


@pytest.mark.parametrize("backend", [*OWN, Attention.SDPA_FLASH, Attention.SDPA_CUDNN, Attention.XFORMERS])
def test_heads_of_the_real_widths_are_proved_or_counted(backend):
    """Stable Diffusion 1's: 8 heads of 40, 80 and 160."""
    model = unet(
        attention_head_dim=8,
        block_out_channels=(320, 640, 1280),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        norm_num_groups=32,
    )
    model = model.eval().requires_grad_(False).to(GPU, torch.float16)
    call = call_on_gpu(UNETS[0], 2, torch.float16)
    expected = run(model, call)
    told = used_or_refused(model, backend, torch.float16)
    assert far(run(model, call), expected) < BOUND[torch.float16], told.detail


@pytest.mark.parametrize("backend", Attention)
def test_a_cuda_graph_holds_a_fused_model_with_this_attention(backend):
    dtype = torch.float16
    model = denoiser("unet", dtype).to(GPU)
    fuse_projections(model)
    used_or_refused(model, backend, dtype)
    call = call_on_gpu("unet", 2, dtype, mixed=True)
    other = {**call, "sample": torch.randn_like(call["sample"])}
    with torch.inference_mode():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                run(model, call)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = model(**call, return_dict=False)[0]
        expected = run(model, other)
        call["sample"].copy_(other["sample"])
        graph.replay()
        assert far(captured, expected) < BOUND[dtype]


def test_fused_projections_have_adapters_by_the_row(tmp_path):
    dtype = torch.float32
    rows = [[0], [], [1], [0, 1]]
    files = [
        diffusers_file(tmp_path / f"{rank}", {"unet": denoiser("unet")}, rank, rank, linear_only) for rank in (3, 6)
    ]
    outputs = []
    for fused in (False, True):
        model = denoiser("unet").to(GPU)
        if fused:
            fuse_projections(model)
        adapters = Adapters({"unet": model}, AdapterBudgets(1 << 28, 1 << 28))
        uses = [adapters.load(file).at(0.7) for file in files]
        with adapters.applied(adapters.select("unet", [tuple(uses[one] for one in row) for row in rows])):
            outputs.append(run(model, call_on_gpu("unet", len(rows), dtype)))
    assert far(outputs[1], outputs[0]) < BOUND[dtype]


@pytest.mark.parametrize("dtype", BOUND)
def test_channels_last_computes_the_same(dtype):
    model, call = denoiser("unet", dtype).to(GPU), call_on_gpu("unet", 3, dtype)
    expected = run(model, call)
    assert lay_channels_last(model, AutoencoderKL()).value == "channels-last"
    assert far(run(model, call), expected) < BOUND[dtype]
