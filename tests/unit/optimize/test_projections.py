"""Fused projections: one product, the same numbers; the layers are still there, for state dicts and for adapters by the row."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))

from small_denoisers import DENOISERS, MASKED, call_of, denoiser, far, run
from written_files import diffusers_file, linear_only, write

from collodion.worker.adapters.adapters import AdapterBudgets, Adapters
from collodion.worker.optimize.attention import use_attention
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.projections import fuse_projections
from collodion.worker.optimize.wishes import Attention
from collodion.worker.registry.sharing import SharedWeights

PLENTY = AdapterBudgets(1 << 28, 1 << 28)
EXACT = 1e-6
PRODUCTS = {"unet": 8, "unet with linear projections": 8, "sd3": 5, "flux": 3, "qwen": 4, "z_image": 4}


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.linear)
        return function(*args, **(kwargs or {}))


def products(model, call):
    with Products() as counted:
        run(model, call)
    return counted.count


def storage_bytes(model):
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in model.parameters()}
    return sum(storages.values())


def component_of(name):
    return "unet" if name.startswith("unet") else "transformer"


@pytest.mark.parametrize("name", DENOISERS)
def test_a_fused_model_computes_the_same_in_fewer_products(name):
    model, call = denoiser(name), call_of(name, 3, mixed=name in MASKED)
    expected, before = run(model, call), products(model, call)
    told = fuse_projections(model)
    assert far(run(model, call), expected) < EXACT
    assert (told.name, told.value) == ("fuse_qkv", "on")
    assert told.detail.startswith(f"{PRODUCTS[name]} products in ")
    # Each group of three saves two products, each of two one.
    crossed = sum(bool(getattr(module, "is_cross_attention", False)) for module in model.modules())
    assert before - products(model, call) == 2 * PRODUCTS[name] - crossed


@pytest.mark.parametrize("name", DENOISERS)
def test_weights_have_their_names_and_values_and_are_held_once(name):
    model = denoiser(name)
    values = {key: value.clone() for key, value in model.state_dict().items()}
    held = storage_bytes(model)
    fuse_projections(model)
    after = model.state_dict()
    assert after.keys() == values.keys()
    assert all(torch.equal(after[key], value) for key, value in values.items())
    assert storage_bytes(model) == held
    attention = next(each for each in model.modules() if hasattr(each, "to_q"))
    key, value = attention.to_k.weight, attention.to_v.weight
    assert key.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
    assert value.storage_offset() == key.storage_offset() + key.numel()


@pytest.fixture(params=["sites first", "sites later"])
def fused_with_adapters(request, tmp_path):
    """Makes a plain model and a fused one with their adapters, and the same files for both."""
    made = []

    def make(name, dtype=torch.float32):
        pair = []
        for fused in (False, True):
            model = denoiser(name, dtype)
            if fused and request.param == "sites later":
                fuse_projections(model)
            adapters = Adapters({component_of(name): model}, PLENTY, every_row=False)
            if fused and request.param == "sites first":
                fuse_projections(model)
            made.append(adapters)
            pair.append((model, adapters))
        components = {component_of(name): denoiser(name)}
        files = [diffusers_file(tmp_path / f"{rank}", components, rank, rank, linear_only) for rank in (3, 6)]
        return (*pair, [*files, whole_file(tmp_path / "whole", components)])

    yield make
    for adapters in made:
        adapters.close()


def whole_file(path, components):
    """Differences of whole matrices, of some of the layers."""
    generator = torch.Generator().manual_seed(7)
    tensors = {
        f"lora_unet_{layer.replace('.', '_')}.diff": torch.randn(module.weight.shape, generator=generator) * 0.1
        for model in components.values()
        for layer, module in model.named_modules()
        if layer.endswith(("to_q", "to_v", "add_k_proj"))
    }
    return write(path, tensors)


def applied(model, adapters, name, rows, call, **options):
    chosen = [tuple(adapters.load(file).at(scale) for file, scale in row) for row in rows]
    with adapters.applied(adapters.select(component_of(name), chosen, **options)):
        return run(model, call)


@pytest.mark.parametrize("name", ["unet", "sd3", "flux", "qwen"])
def test_each_row_has_its_own_adapters(name, fused_with_adapters):
    plain, fused, (a, b, whole) = fused_with_adapters(name)
    mixed = [[], [(a, 1.0)], [(b, 0.5)], [(a, 0.7), (b, -0.4)], [(whole, 0.8), (a, 0.3)]]
    batches = [
        (mixed, {}),
        (mixed[:4], {"ranks": 12}),
        ([[(a, 0.5)]] * 3, {}),
        ([[(whole, 0.5)]] * 2, {}),
        ([[], [(b, 1.0)], []], {}),
    ]
    for rows, options in batches:
        call = call_of(name, len(rows))
        expected, ours = (applied(*each, name, rows, call, **options) for each in (plain, fused))
        assert far(ours, expected) < 1e-5
        untouched = run(plain[0], call)
        assert far(expected, untouched) > 1e-3
        for row, parts in enumerate(rows):
            if not parts:
                assert far(ours[row], untouched[row]) < EXACT


def test_adapters_are_applied_in_half_precision_too(fused_with_adapters):
    plain, fused, (a, *_) = fused_with_adapters("unet", torch.bfloat16)
    rows, call = [[], [(a, 1.0)]], call_of("unet", 2)
    call = {key: None if value is None else value.bfloat16() for key, value in call.items()}
    expected, ours = (applied(*each, "unet", rows, call) for each in (plain, fused))
    assert far(ours.float(), expected.float()) < 3e-2


def test_another_input_than_the_first_layers_is_read_by_the_layer_itself():
    """An attention over its own tokens that is handed others."""
    model = denoiser("unet")
    attention = next(module for name, module in model.named_modules() if name.endswith("attn1"))
    own, other = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    with torch.inference_mode():
        expected = attention(own), attention(own, encoder_hidden_states=other)
        fuse_projections(model)
        ours = attention(own), attention(own, encoder_hidden_states=other)
    assert all(far(one, another) < EXACT for one, another in zip(ours, expected, strict=True))


def test_models_that_share_weights_go_on_sharing_them():
    shared = SharedWeights()
    model, call = denoiser("sd3"), call_of("sd3", 2)
    expected, held = run(model, call), storage_bytes(model)
    shared.keep("file", model)
    fuse_projections(model)
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    other = shared.find("file")
    assert other is not None
    assert torch.equal(run(other, call), run(model, call)) or far(run(other, call), expected) < EXACT
    fuse_projections(other)
    assert all(one is another for one, another in zip(model.parameters(), other.parameters(), strict=True))
    assert [parameter.data_ptr() for parameter in model.parameters()] == addresses  # captured graphs read them there
    assert storage_bytes(nn.ModuleList([model, other])) == held
    assert far(run(model, call), expected) < EXACT
    assert far(run(other, call), expected) < EXACT


def test_weights_that_were_made_in_inference_mode_are_fused():
    with torch.inference_mode():
        model = denoiser("unet")
        expected = run(model, call_of("unet", 2))
        fuse_projections(model)
    assert far(run(model, call_of("unet", 2)), expected) < EXACT


class Quantised(nn.Linear):
    """What takes a layer's place has its own way to compute."""


def test_layers_that_are_no_plain_ones_are_left_and_counted():
    model, call = denoiser("unet"), call_of("unet", 2)
    expected = run(model, call)
    attentions = [module for module in model.modules() if hasattr(module, "to_q")]
    attentions[0].to_v.__class__ = Quantised
    attentions[1].to_k.weight = nn.Parameter(attentions[1].to_k.weight.double(), requires_grad=False)
    attentions[1].to_k.forward = lambda inputs: nn.functional.linear(inputs, attentions[1].to_k.weight.float())
    assert fuse_projections(model).detail.startswith("6 products in 6 of 8 attentions")
    assert far(run(model, call), expected) < EXACT


def test_a_model_of_which_nothing_can_be_fused_is_refused():
    with pytest.raises(Unsuitable, match="no attention whose projections are known"):
        fuse_projections(nn.Linear(2, 2))
    model = denoiser("flux")
    for module in model.modules():
        if hasattr(module, "to_q"):
            module.to_q.__class__ = module.to_k.__class__ = Quantised
            if module.added_kv_proj_dim:
                module.add_q_proj.__class__ = Quantised
    with pytest.raises(Unsuitable, match="quantised, or differ in kind"):
        fuse_projections(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "kind"), [("unet", "BasicTransformerBlock"), ("flux", "FluxTransformerBlock")])
def test_a_block_with_adapters_is_compiled_as_one_graph_and_once(name, kind, tmp_path):
    model, call = denoiser(name), call_of(name, 3)
    component = component_of(name)
    use_attention(model, Attention.SDPA, torch.device("cpu"), torch.float32)
    fuse_projections(model)
    files = [
        diffusers_file(tmp_path / f"{rank}", {component: denoiser(name)}, rank, rank, linear_only) for rank in (3, 6)
    ]
    adapters = Adapters({component: model}, PLENTY)
    a, b = files
    applied(model, adapters, name, [[(a, 1.0), (b, 1.0)], [], []], call)  # all pools have their room
    batches = [[[(a, 1.0)], [], [(b, 0.5)]], [[], [(a, 0.3), (b, 0.2)], []], [[], [], []]]
    expected = [applied(model, adapters, name, rows, call, ranks=16) for rows in batches]
    counter = CompileCounter()
    block = next(module for module in model.modules() if type(module).__name__ == kind)
    block.compile(backend=counter, fullgraph=True)
    for rows, each in zip(batches, expected, strict=True):
        assert far(applied(model, adapters, name, rows, call, ranks=16), each) < 1e-5
    assert counter.frame_count == 1
    adapters.close()
    torch._dynamo.reset()
