"""Compiled blocks on a GPU: triton's kernels draw what the eager model draws, under a CUDA graph too, with adapters by the row.

Written without a GPU at hand; run by `make test-gpu`.
"""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "adapters"))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "optimize"))

from replaying import Notes  # noqa: E402
from tiny_pipelines import MADE, inputs  # noqa: E402
from written_files import diffusers_file  # noqa: E402

from collodion.worker.adapters.adapters import AdapterBudgets, Adapters  # noqa: E402
from collodion.worker.optimize.compilation import BlockCompiler, compile_blocks, repeated_blocks  # noqa: E402
from collodion.worker.optimize.ready import STEP, Signature  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.timeout(600),
]

ROWS, RANKS = 4, 8
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


@pytest.fixture(autouse=True)
def _setting(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "compiled"))
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def denoiser_of(name, dtype):
    parts = MADE[name]()
    return (parts.get("unet") or parts["transformer"]).requires_grad_(False).to("cuda", dtype)


def moved(value, dtype):
    if isinstance(value, dict):
        return {key: moved(one, dtype) for key, one in value.items()}
    return value.to("cuda", dtype if value.dtype is torch.float32 else value.dtype)


def calling(denoiser, call):
    """A function of the tensors in the call, and those."""
    more = {key: value for key, value in call.items() if isinstance(value, dict)}
    tensors = {key: value for key, value in call.items() if not isinstance(value, dict)}
    return lambda given: {"out": denoiser(**given, **more, return_dict=False)[0]}, tensors


def difference(one, other):
    return float((one.float() - other.float()).abs().max() / other.float().abs().max())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", MADE)
def test_compiled_blocks_compute_what_eager_ones_do(name, dtype):
    denoiser, heard = denoiser_of(name, dtype), Notes()
    compile_blocks(denoiser)
    call = moved(inputs(name, ROWS), dtype)
    function, tensors = calling(denoiser, call)
    made = BlockCompiler(denoiser, heard).make(Signature.of(STEP, None, tensors), function, tensors)
    with torch.inference_mode():
        expected = function(tensors)["out"]
    assert difference(made(function, tensors)["out"], expected) < TOLERANCE[dtype]
    assert heard.fallbacks == []


def test_a_cuda_graph_holds_compiled_blocks():
    denoiser, heard = denoiser_of("sd1", torch.float32), Notes()
    compile_blocks(denoiser)
    function, tensors = calling(denoiser, moved(inputs("sd1", ROWS), torch.float32))
    made = BlockCompiler(denoiser, heard).make(Signature.of(STEP, None, tensors), function, tensors)
    with torch.inference_mode():
        static = {name: tensor.clone() for name, tensor in tensors.items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            made(function, static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = made(function, static)["out"]
        for seed in (1, 2):
            fresh = moved(inputs("sd1", ROWS, seed=seed), torch.float32)
            for name, tensor in static.items():
                tensor.copy_(fresh[name])
            graph.replay()
            assert difference(out, function(fresh)["out"]) < 1e-4
    assert heard.fallbacks == []


def test_adapters_come_and_go_without_another_kernel(tmp_path):
    denoiser, heard = denoiser_of("sd1", torch.float32), Notes()
    adapters = Adapters({"unet": denoiser}, AdapterBudgets(1 << 24, 1 << 24))
    compile_blocks(denoiser)
    adapters.fix("unet", repeated_blocks(denoiser))
    uses = [
        adapters.load(diffusers_file(tmp_path / f"{rank}.safetensors", {"unet": denoiser}, rank=rank, seed=rank)).at(
            0.7
        )
        for rank in (2, 4, 8)
    ]
    plain, tensors = calling(denoiser, moved(inputs("sd1", ROWS), torch.float32))
    selection = adapters.select("unet", [()] * ROWS, ranks=RANKS)

    def function(given):
        with adapters.applied(selection):
            return plain(given)

    made = BlockCompiler(denoiser, heard).make(Signature.of(STEP, None, tensors), function, tensors)
    for rows in ([(uses[0],), (), (uses[1],), ()], [(uses[2],), (uses[1],), (), (uses[0],)]):
        selection = adapters.select("unet", rows, ranks=RANKS)
        compiled = made(function, tensors)["out"]
        selection = adapters.select("unet", rows)
        with torch.inference_mode():
            assert difference(compiled, function(tensors)["out"]) < 1e-4
    assert heard.fallbacks == []
