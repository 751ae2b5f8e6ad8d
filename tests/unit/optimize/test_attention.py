"""Attention backends: each proves itself on the model's own heads, and one that does not is refused with the reason."""

import sys
import threading
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import nn
from torch._dynamo.testing import CompileCounter

sys.path.insert(0, str(Path(__file__).parent))

from small_denoisers import DENOISERS, MASKED, UNETS, call_of, denoiser, far, run

from collodion.worker.optimize import kernels
from collodion.worker.optimize.attention import takes_masks, use_attention
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.wishes import Attention

CPU = torch.device("cpu")
HERE = (Attention.SDPA_FLASH, Attention.SDPA_MATH)
"""SDPA's kernels that a CPU has."""
BLOCKS = ("BasicTransformerBlock", "JointTransformerBlock")
CALLS = [(name, False) for name in DENOISERS] + [(name, True) for name in MASKED]


def use(model, backend, dtype=torch.float32):
    return use_attention(model, backend, CPU, dtype)


def processors(model):
    return [module.processor for module in model.modules() if hasattr(module, "processor")]


def kernel(query, key, value, attn_bias=None, scale=None):
    """What xFormers computes."""
    each = (one.transpose(1, 2) for one in (query, key, value))
    return F.scaled_dot_product_attention(*each, attn_mask=attn_bias, scale=scale).transpose(1, 2)


@pytest.fixture
def xformers(monkeypatch):
    """Puts a function in the place of xFormers' attention."""

    def install(function):
        module = ModuleType("xformers.ops")
        module.memory_efficient_attention = function
        monkeypatch.setitem(sys.modules, "xformers", ModuleType("xformers"))
        monkeypatch.setitem(sys.modules, "xformers.ops", module)

    return install


@pytest.mark.parametrize(("name", "mixed"), CALLS)
def test_sdpa_through_the_dispatcher_gives_the_bits_that_diffusers_gives(name, mixed):
    model, call = denoiser(name), call_of(name, 3, mixed)
    expected = run(model, call)
    told = use(model, Attention.AUTO)
    assert torch.equal(run(model, call), expected)
    count = len(processors(model))
    assert (told.name, told.value) == ("attention", "sdpa")
    assert told.detail.startswith(f"{count} of {count} attentions; at most ")
    assert takes_masks(model)


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("name", DENOISERS)
def test_a_forced_kernel_computes_what_sdpa_does_without_touching_the_switches_of_the_process(
    name, backend, monkeypatch
):
    model = denoiser(name)
    calls = [call_of(name, 3, mixed) for mixed in (False, True)]
    plain, masked = (run(model, call) for call in calls)
    use(model, backend)
    monkeypatch.setattr(torch.nn.attention, "sdpa_kernel", None)  # it sets them for all threads
    assert far(run(model, calls[0]), plain) < 1e-5
    assert takes_masks(model) == (backend is Attention.SDPA_MATH or name not in ("qwen", "z_image"))
    if takes_masks(model):
        assert far(run(model, calls[1]), masked) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_backends_are_proved_in_the_dtype_of_the_model(dtype):
    told = use(denoiser("unet", dtype), Attention.SDPA, dtype)
    farthest = float(told.detail.split("at most ")[1].split()[0])
    assert 1e-4 < farthest < 2e-2


@pytest.mark.parametrize("backend", [Attention.SDPA_EFFICIENT, Attention.SDPA_CUDNN])
def test_a_kernel_that_the_device_lacks_is_refused_and_nothing_is_changed(backend):
    model = denoiser("unet")
    before = processors(model)
    with pytest.raises(Unsuitable, match=f"attention={backend} does not run here with 2 heads of 8: .*'CPU' backend"):
        use(model, backend)
    assert all(one is other for one, other in zip(before, processors(model), strict=True))


def test_a_package_that_is_not_there_is_refused_by_its_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)
    for package in ("FLASH_ATTN", "FLASH_ATTN_3", "SAGE_ATTN"):
        monkeypatch.setattr(attention_dispatch, f"_CAN_USE_{package}", False)
    model = denoiser("unet")
    for backend, package in (
        (Attention.XFORMERS, "cannot be imported: .*xformers"),
        (Attention.FLASH, "flash-attn"),
        (Attention.FLASH_3, "FA3"),
        (Attention.SAGE, "sageattention"),
    ):
        with pytest.raises(Unsuitable, match=f"attention={backend}: .*{package}"):
            use(model, backend)


@pytest.mark.parametrize("name", DENOISERS)
def test_a_package_that_computes_attention_is_used_for_all_of_it(name, xformers):
    seen = []

    def noted(query, key, value, attn_bias=None, scale=None):
        seen.append(attn_bias)
        return kernel(query, key, value, attn_bias, scale)

    xformers(noted)
    model, call = denoiser(name), call_of(name, 3, mixed=name in MASKED)
    expected = run(model, call)
    told = use(model, Attention.XFORMERS)
    count = len(processors(model))
    assert (told.value, told.detail.split(";")[0]) == ("xformers", f"{count} of {count} attentions")
    seen.clear()
    assert far(run(model, call), expected) < 1e-5
    assert len(seen) == count
    assert takes_masks(model)
    biases = [bias for bias in seen if bias is not None]
    assert bool(biases) == (name in MASKED)
    for bias in biases:  # as the real one's kernels want them
        assert bias.dtype is torch.float32
        assert all(step % 8 == 0 for step in bias.stride()[:-1])


def test_a_package_that_computes_something_else_is_refused(xformers):
    xformers(lambda query, key, value, attn_bias=None, scale=None: kernel(query, key, value, attn_bias, scale) * 1.01)
    model = denoiser("flux")
    before = processors(model)
    with pytest.raises(Unsuitable, match=r"computes something else: with 2 heads of 8 it is off by 1\.0e-02"):
        use(model, Attention.XFORMERS)
    assert processors(model) == before


def test_a_package_that_gives_no_numbers_is_refused(xformers):
    xformers(lambda query, key, value, attn_bias=None, scale=None: torch.full_like(query, float("nan")))
    with pytest.raises(Unsuitable, match="it is off by inf"):
        use(denoiser("sd3"), Attention.XFORMERS)


def test_a_device_without_memory_for_the_proof_is_no_fault_of_the_backend(xformers):
    def full(query, key, value, attn_bias=None, scale=None):
        raise torch.OutOfMemoryError("CUDA out of memory")

    xformers(full)
    with pytest.raises(MemoryError):
        use(denoiser("sd3"), Attention.XFORMERS)


@pytest.mark.parametrize("name", ["unet", "qwen", "z_image"])
def test_a_package_that_does_not_heed_masks_is_refused(name, xformers):
    xformers(lambda query, key, value, attn_bias=None, scale=None: kernel(query, key, value, None, scale))
    with pytest.raises(Unsuitable, match="computes something else: with 2 heads of 8 and a mask"):
        use(denoiser(name), Attention.XFORMERS)


def without_masks(query, key, value, attn_bias=None, scale=None):
    if attn_bias is not None:
        raise NotImplementedError("no bias here")
    return kernel(query, key, value, None, scale)


@pytest.mark.parametrize("name", UNETS)
def test_where_a_backend_takes_no_masks_a_unets_prompts_of_mixed_lengths_go_to_sdpa(name, xformers):
    xformers(without_masks)
    model, call = denoiser(name), call_of(name, 3, mixed=True)
    expected = run(model, call)
    told = use(model, Attention.XFORMERS)
    assert told.detail.endswith("it takes no mask: cross-attention goes to SDPA where prompts differ in length")
    assert takes_masks(model)
    assert far(run(model, call), expected) < 1e-5


@pytest.mark.parametrize("name", ["qwen", "z_image"])
def test_where_a_backend_takes_no_masks_a_transformers_prompts_are_of_one_length(name, xformers):
    xformers(without_masks)
    model, call = denoiser(name), call_of(name, 3)
    expected = run(model, call)
    told = use(model, Attention.XFORMERS)
    assert told.detail.endswith("it takes no mask: prompts of one length in a call")
    assert not takes_masks(model)
    assert far(run(model, call), expected) < 1e-5


def test_attentions_that_a_backend_cannot_run_stay_with_sdpa_and_are_counted(xformers):
    def narrow(query, key, value, attn_bias=None, scale=None):
        if query.shape[-1] > 4:
            raise RuntimeError("heads wider than 4.\nAnd more that nobody reads")
        return kernel(query, key, value, attn_bias, scale)

    xformers(narrow)
    model, call = denoiser("unet"), call_of("unet", 2)
    expected = run(model, call)
    told = use(model, Attention.XFORMERS)
    assert told.detail.startswith("2 of 8 attentions")
    assert "stay with SDPA (heads wider than 4)" in told.detail
    assert far(run(model, call), expected) < 1e-5


def test_flash_attention_is_called_by_diffusers_own_function(monkeypatch):
    def flash(q, k, v, softmax_scale, **options):
        return kernel(q, k, v, None, softmax_scale)

    monkeypatch.setattr(attention_dispatch, "_CAN_USE_FLASH_ATTN", True)
    monkeypatch.setattr(attention_dispatch, "flash_attn_func", flash)
    model, call = denoiser("flux"), call_of("flux", 2)
    expected = run(model, call)
    assert use(model, Attention.FLASH).value == "flash"
    assert far(run(model, call), expected) < 1e-5


def test_models_with_different_backends_run_side_by_side(xformers):
    """And nothing is said to the dispatcher as a whole."""
    entered, left = threading.Event(), threading.Event()
    used = []

    def slow(query, key, value, attn_bias=None, scale=None):
        used.append(threading.current_thread())
        entered.set()
        assert left.wait(20)
        return kernel(query, key, value, attn_bias, scale)

    current = attention_dispatch._AttentionBackendRegistry.get_active_backend()
    one, other = denoiser("flux"), denoiser("flux")
    call = call_of("flux", 2)
    expected = run(one, call)
    left.set()
    xformers(slow)
    use(one, Attention.XFORMERS)
    use(other, Attention.SDPA_MATH)
    assert attention_dispatch._AttentionBackendRegistry.get_active_backend() == current
    left.clear()
    entered.clear()
    used.clear()
    outputs = []
    thread = threading.Thread(target=lambda: outputs.append(run(one, call)))
    thread.start()
    assert entered.wait(20)
    assert far(run(other, call), expected) < 1e-5
    left.set()
    thread.join(20)
    assert far(outputs[0], expected) < 1e-5
    assert set(used) == {thread}


def test_a_backend_can_be_changed_again(xformers):
    xformers(kernel)
    model, call = denoiser("sd3"), call_of("sd3", 2)
    expected = run(model, call)
    for backend in (Attention.XFORMERS, Attention.SDPA_MATH, Attention.SDPA):
        assert use(model, backend).detail.startswith("3 of 3 attentions")
    assert torch.equal(run(model, call), expected)


def test_a_model_without_attention_is_refused():
    with pytest.raises(Unsuitable, match="no attention whose backend can be chosen"):
        use(nn.Linear(2, 2), Attention.SDPA)


def test_what_no_denoiser_asks_for_is_left_to_the_dispatchers_own_functions():
    use(denoiser("flux"), Attention.SDPA_MATH)
    name = attention_dispatch.AttentionBackendName._NATIVE_MATH
    query = torch.randn(1, 5, 2, 4)
    causal = attention_dispatch.dispatch_attention_fn(query, query, query, is_causal=True, backend=name)
    each = query.transpose(1, 2)
    expected = F.scaled_dot_product_attention(each, each, each, is_causal=True).transpose(1, 2)
    assert torch.allclose(causal, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "backend"), [("unet", Attention.SDPA_FLASH), ("sd3", Attention.SDPA_MATH)])
def test_a_block_compiles_as_one_graph(name, backend):
    model, call = denoiser(name), call_of(name, 2)
    use(model, backend)
    expected = run(model, call)
    counter = CompileCounter()
    block = next(module for module in model.modules() if type(module).__name__ in BLOCKS)
    block.compile(backend=counter, fullgraph=True)
    assert far(run(model, call), expected) < 1e-5
    run(model, call)
    assert counter.frame_count == 1
    torch._dynamo.reset()


@pytest.fixture
def theirs(monkeypatch):
    """Puts a kernel of ours before one that notes its calls, in a dispatcher that is as it was afterwards."""
    registry, name, noted = attention_dispatch._AttentionBackendRegistry, AttentionBackendName._NATIVE_MATH, []
    for each in (registry._constraints, registry._supported_arg_names):
        monkeypatch.setitem(each, name, each[name])
    monkeypatch.setitem(registry._backends, name, lambda query, *more: noted.append(more) or query)
    kernels._put(name, lambda query, *_: query * 2)
    return noted


@pytest.mark.parametrize("asked", [{"is_causal": True}, {"dropout_p": 0.5}, {"enable_gqa": True}])
def test_what_no_denoiser_asks_for_is_left_to_diffusers_own_kernels(asked, theirs):
    query = torch.ones(1, 3, 1, 4)
    attend = partial(attention_dispatch.dispatch_attention_fn, backend=AttentionBackendName._NATIVE_MATH)
    assert float(attend(query, query, query).max()) == 2
    assert not theirs
    assert float(attend(query, query, query, **asked).max()) == 1
    with torch.enable_grad():
        attend(query, query.clone().requires_grad_(), query)
    assert len(theirs) == 2


def test_xformers_own_kernel_stays_until_it_is_asked_for(monkeypatch):
    registry, name = attention_dispatch._AttentionBackendRegistry, AttentionBackendName.XFORMERS

    def diffusers_own(*_):
        raise AssertionError

    monkeypatch.setitem(registry._backends, name, diffusers_own)
    monkeypatch.setattr(kernels, "_memory_efficient", None)
    kernels.dispatched(Attention.SDPA_MATH)
    assert registry._backends[name] is diffusers_own
