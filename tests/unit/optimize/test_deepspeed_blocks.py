"""DeepSpeed's fused blocks on a CPU: which blocks they are for, and that they compute what diffusers' do.

DeepSpeed's own modules run, with float stand-ins for its compiled kernels.
"""

import copy
import importlib
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from diffusers.models.activations import GELU
from diffusers.models.attention import BasicTransformerBlock

from collodion.worker.optimize import deepspeed_kernels
from collodion.worker.optimize.deepspeed_blocks import inject_deepspeed, put
from collodion.worker.optimize.deepspeed_kernels import load_kernels
from collodion.worker.optimize.deepspeed_modules import (
    Heads,
    InjectedAttention,
    InjectedBlock,
    Projection,
    fused_block,
    injected,
)
from collodion.worker.optimize.deepspeed_policy import survey
from collodion.worker.optimize.errors import Unsuitable

sys.path.insert(0, str(Path(__file__).parent))

from deepspeed_reference import (
    FlashAttention,
    block,
    inference_module,
    linear_layer,
    pad_transform,
    spatial_module,
    transformer_block,
)

CPU = torch.device("cpu")
INFERENCE = "deepspeed.ops.transformer.inference"


def unet(**options):
    torch.manual_seed(0)
    made = UNet2DConditionModel(
        **{
            "sample_size": 16,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "block_out_channels": (144, 144),
            "norm_num_groups": 4,
            "layers_per_block": 1,
            "attention_head_dim": 4,
            "cross_attention_dim": 24,
            **options,
        }
    )
    return made.eval()


def blocks(model):
    return [module for module in model.modules() if isinstance(module, BasicTransformerBlock)]


@pytest.fixture
def kernels(monkeypatch):
    """DeepSpeed's own modules, with float stand-ins for what needs a GPU."""
    pytest.importorskip("deepspeed")
    base, bias_add, attention = (
        importlib.import_module(f"{INFERENCE}.{name}")
        for name in ("op_binding.base", "bias_add", "diffusers_attention")
    )
    module = inference_module()
    monkeypatch.setattr(base.BaseOp, "inference_module", module)
    monkeypatch.setattr(bias_add, "spatial_cuda_module", spatial_module())
    monkeypatch.setattr(attention, "triton_flash_attn", FlashAttention)
    return SimpleNamespace(kernels=load_kernels(), calls=module.calls)


def distance(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


def inject(model, kernels):
    with torch.no_grad():
        return put(survey(model, torch.float32), kernels.kernels, CPU, torch.float32)


@pytest.mark.parametrize(("heads", "head"), [(4, 36), (3, 64), (9, 16), (2, 80), (1, 160)])
@pytest.mark.parametrize("tokens", [64, 128, 72])
def test_the_fused_block_computes_what_diffusers_computes(heads, head, tokens, kernels):
    original = transformer_block(heads, head)
    states, text = torch.randn(3, heads * head, tokens).transpose(1, 2), torch.randn(3, 7, 24)
    replaced = injected(original, kernels.kernels, torch.float32)
    with torch.no_grad():
        expected = original(states, encoder_hidden_states=text)
        assert distance(replaced(states, encoder_hidden_states=text), expected) < 1e-5
    assert kernels.calls == ["layer_norm", *["residual_layer_norm"] * 2, "gated_activation"]


@pytest.mark.parametrize(("heads", "head"), [(4, 36), (3, 64), (1, 160)])
def test_the_weights_are_where_the_reference_of_the_fused_block_looks_for_them(heads, head, kernels):
    original = transformer_block(heads, head)
    weights = fused_block(original, kernels.kernels, torch.float32).state_dict()
    states, text = torch.randn(2, 128, heads * head), torch.randn(2, 7, 24)
    epsilons = [norm.eps for norm in (original.norm1, original.norm2, original.norm3)]
    with torch.no_grad():
        expected = original(states, encoder_hidden_states=text)
        assert distance(block(weights, states, text, heads, epsilons), expected) < 1e-5


def test_the_fused_block_also_runs_with_what_stands_for_its_own_linear_layers(kernels):
    original = transformer_block()
    fused = fused_block(original, kernels.kernels, torch.float32)
    for attention in (fused.attn_1, fused.attn_2):
        attention.linear_func = _Function(linear_layer)
        attention.pad_transform_func = _Function(pad_transform)
    states, text = torch.randn(2, 64, 144), torch.randn(2, 7, 24)
    with torch.no_grad():
        assert distance(fused(states, context=text), original(states, encoder_hidden_states=text)) < 1e-5


class _Function(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *arguments):
        return self.function(*arguments)


@pytest.mark.parametrize(("heads", "head"), [(4, 36), (3, 64), (9, 16), (2, 80)])
def test_what_stands_for_its_linear_layer_and_transposition_computes_the_same(heads, head):
    width = heads * head
    inputs, weight, bias = torch.randn(2, 5, width), torch.randn(width, 3 * width), torch.randn(3 * width)
    ours, theirs = Projection(), linear_layer
    assert torch.allclose(
        ours(inputs, weight, bias, True, False, heads), theirs(inputs, weight, bias, True, False, heads), atol=1e-4
    )
    apart, expected = (one(inputs, weight, weight, False, True, heads) for one in (ours, theirs))
    assert torch.allclose(apart[..., :head], expected[..., :head], atol=1e-4)
    assert not apart[..., head:].any()
    assert all(one.is_contiguous() for one in apart)
    separate = inputs.chunk(3, dim=-1) if width % 3 == 0 else (inputs,) * 3
    for one, other in zip(
        Heads()(inputs, *separate[1:], 1, False), pad_transform(inputs, *separate[1:], 1, False), strict=True
    ):
        assert torch.equal(one, other)


def test_a_unet_draws_the_same_with_every_block_replaced(kernels):
    model = unet()
    expected_of = copy.deepcopy(model)
    became = inject(model, kernels)
    assert (became.name, became.value) == ("deepspeed", "on")
    assert became.detail.startswith("4 of 4 transformer blocks; at most ")
    assert not blocks(model)
    assert sum(isinstance(module, InjectedBlock) for module in model.modules()) == 4
    states, text = torch.randn(3, 4, 16, 16), torch.randn(3, 7, 24)
    timesteps = torch.tensor([1.0, 500.0, 900.0])
    with torch.no_grad():
        ours, theirs = (one(states, timesteps, text).sample for one in (model, expected_of))
        assert distance(ours, theirs) < 1e-5
        alone = model(states[1:2], timesteps[1:2], text[1:2]).sample
        assert distance(alone, ours[1:2]) < 1e-5


def test_where_a_block_does_not_match_its_attentions_are_replaced(kernels):
    model = unet()
    changed = blocks(model)[0]
    changed.ff.net[0] = GELU(144, 576)
    expected_of = copy.deepcopy(model)
    became = inject(model, kernels)
    assert became.detail.startswith("3 of 4 transformer blocks, 2 of 2 other attentions; at most ")
    assert became.detail.endswith("; not those with feed-forward layers of another kind (GELU)")
    assert sum(isinstance(module, InjectedAttention) for module in model.modules()) == 2
    states, text = torch.randn(2, 4, 16, 16), torch.randn(2, 7, 24)
    with torch.no_grad():
        assert distance(model(states, 10, text).sample, expected_of(states, 10, text).sample) < 1e-5


def test_a_mask_is_an_error(kernels):
    model = unet()
    inject(model, kernels)
    states, text = torch.randn(2, 4, 16, 16), torch.randn(2, 7, 24)
    mask = torch.ones(2, 7, dtype=torch.bool)
    with pytest.raises(RuntimeError, match="takes no mask"):
        model(states, 1, text, encoder_attention_mask=mask)
    with pytest.raises(RuntimeError, match="takes no mask"):
        model(states, 1, text, attention_mask=torch.ones(2, 256))
    with pytest.raises(RuntimeError, match="no options, but was given ip_adapter_masks"):
        model(states, 1, text, cross_attention_kwargs={"ip_adapter_masks": []})


def test_an_attention_refuses_what_it_would_ignore(kernels):
    original = transformer_block()
    states, text = torch.randn(1, 64, 144), torch.randn(1, 7, 24)
    own, cross = (injected(one, kernels.kernels, torch.float32) for one in (original.attn1, original.attn2))
    with pytest.raises(RuntimeError, match="looks at itself only"):
        own(states, encoder_hidden_states=text)
    with pytest.raises(RuntimeError, match="looks at a text only"):
        cross(states)
    with pytest.raises(RuntimeError, match="no mask"):
        own(states, attention_mask=torch.ones(1, 64))
    with pytest.raises(RuntimeError, match="without a text"):
        injected(original, kernels.kernels, torch.float32)(states)


def test_the_original_block_is_left_as_it_was(kernels):
    original = transformer_block()
    before = copy.deepcopy(original.state_dict())
    replaced = injected(original, kernels.kernels, torch.float32)
    assert all(torch.equal(weight, before[name]) for name, weight in original.state_dict().items())
    assert replaced.fused.ff1_w.data_ptr() == original.ff.net[0].proj.weight.data_ptr()
    assert all(weight.device == CPU and weight.isfinite().all() for weight in replaced.parameters())


def test_kernels_that_compute_something_else_are_refused_and_change_nothing(kernels, monkeypatch):
    model = unet()
    monkeypatch.setattr(FlashAttention, "forward", lambda self, q, k, v, *_: v)
    with pytest.raises(Unsuitable, match="do not compute on cpu what they should"):
        inject(model, kernels)
    monkeypatch.setattr(FlashAttention, "forward", lambda self, q, k, v, *_: v * torch.nan)
    with pytest.raises(Unsuitable, match="nan from diffusers' blocks"):
        inject(model, kernels)
    assert len(blocks(model)) == 4


def test_kernels_that_do_not_run_are_refused(kernels, monkeypatch):
    def failing(error):
        def forward(*_):
            raise error

        monkeypatch.setattr(FlashAttention, "forward", forward)

    failing(RuntimeError("no kernel image"))
    with pytest.raises(Unsuitable, match="do not run on cpu: no kernel image"):
        inject(unet(), kernels)
    failing(torch.OutOfMemoryError())
    with pytest.raises(torch.OutOfMemoryError):
        inject(unet(), kernels)


def test_it_is_for_cuda_and_float16_and_unets():
    for model, place, dtype, reason in (
        (unet(), "cpu", torch.float16, "a CUDA device only"),
        (unet(), "cuda", torch.bfloat16, "in float16, not in bfloat16"),
        (_flux(), "cuda", torch.float16, "not for a FluxTransformer2DModel"),
    ):
        with pytest.raises(Unsuitable, match=reason):
            inject_deepspeed(model, torch.device(place), dtype)


def _flux():
    with torch.device("meta"):
        return FluxTransformer2DModel(
            num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, axes_dims_rope=(4, 6, 6)
        )


def test_a_unet_of_which_nothing_matches_is_unsuitable():
    with pytest.raises(Unsuitable, match=r"none of this UNet's 4 blocks: it has attentions whose projections"):
        inject_deepspeed(unet(), torch.device("cuda"), torch.float16)
    bare = unet(
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), mid_block_type=None
    )
    with pytest.raises(Unsuitable, match="no transformer blocks"):
        inject_deepspeed(bare, torch.device("cuda"), torch.float16)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(deepspeed_kernels.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unsuitable, match="deepspeed is not installed"):
        load_kernels()


def test_without_triton_it_is_unsuitable(kernels, monkeypatch):
    monkeypatch.setattr(importlib.import_module(f"{INFERENCE}.diffusers_attention"), "triton_flash_attn", None)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(Unsuitable, match="triton cannot be imported"):
        load_kernels()


def test_a_triton_without_block_pointers_is_unsuitable(kernels, monkeypatch):
    monkeypatch.setattr(importlib.import_module(f"{INFERENCE}.diffusers_attention"), "triton_flash_attn", None)
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__="3.9.0"))
    with pytest.raises(Unsuitable, match=r"Triton 3\.9\.0 no longer has"):
        load_kernels()


def test_kernels_that_cannot_be_built_are_unsuitable(kernels, monkeypatch):
    monkeypatch.setattr(importlib.import_module(f"{INFERENCE}.op_binding.base").BaseOp, "inference_module", None)
    with pytest.raises(Unsuitable, match=r"nvcc .* which failed: This op had not been implemented on CPU backend"):
        load_kernels()


def test_a_machine_without_nvcc_is_unsuitable(kernels, monkeypatch):
    builder = importlib.import_module("deepspeed.ops.op_builder.builder")
    monkeypatch.setattr(importlib.import_module(f"{INFERENCE}.bias_add"), "spatial_cuda_module", None)

    def load(verbose):
        monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
        builder.installed_cuda_version()

    found = SimpleNamespace(SpatialInferenceBuilder=lambda: SimpleNamespace(load=load))
    monkeypatch.setitem(sys.modules, "deepspeed.ops.op_builder", found)
    with pytest.raises(Unsuitable, match="which failed: CUDA_HOME does not exist"):
        load_kernels()


def test_deepspeed_s_own_warnings_do_not_reach_standard_output(kernels):
    logger, said = logging.getLogger("DeepSpeed"), []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    logger.warning("Setting accelerator to CPU")
    logger.error("a fault")
    logger.removeHandler(handler)
    assert said == ["a fault"]
