"""Which blocks of a UNet DeepSpeed's fused ones are for: every block of Stable Diffusion's, and none that only looks like it."""

import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, IPAdapterAttnProcessor2_0

from collodion.worker.optimize.deepspeed_policy import attention_objection, block_objection, survey

sys.path.insert(0, str(Path(__file__).parent))

from deepspeed_reference import transformer_block

STABLE_DIFFUSION = {
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
}
XL = {
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
}


@pytest.mark.parametrize(("architecture", "number"), [(STABLE_DIFFUSION, 16), (XL, 70)])
def test_every_block_of_a_real_unet_is_found(architecture, number):
    with torch.device("meta"):
        model = UNet2DConditionModel(**architecture).half()
    found = survey(model, torch.float16)
    assert (len(found.blocks), found.all_blocks, found.all_attentions, found.objections) == (number, number, 0, ())


def test_a_unet_whose_attention_is_upcast_is_not_for_it():
    with torch.device("meta"):
        model = UNet2DConditionModel(**STABLE_DIFFUSION, upcast_attention=True).half()
    found = survey(model, torch.float16)
    assert not found.found
    assert found.objections == ("attention in float32 (upcast_attention)",)


@pytest.mark.parametrize(
    ("options", "objection"),
    [
        ({"activation_fn": "gelu"}, "feed-forward"),
        ({"activation_fn": "geglu-approximate"}, "feed-forward"),
        ({"attention_bias": True}, "biases on queries"),
        ({"attention_out_bias": False}, "bias on their output"),
        ({"ff_bias": False}, "feed-forward"),
        ({"norm_elementwise_affine": False}, "not plain layer norms"),
        ({"norm_type": "ada_norm", "num_embeds_ada_norm": 4}, "norms of another kind"),
        ({"norm_type": "ada_norm_single"}, "norms of another kind"),
        ({"only_cross_attention": True}, "both attentions"),
        ({"double_self_attention": True}, "two self-attentions"),
        ({"context": None}, "both attentions"),
        ({"attention_type": "gated"}, "GLIGEN"),
        ({"positional_embeddings": "sinusoidal", "num_positional_embeddings": 64}, "position embeddings"),
        ({"upcast_attention": True}, "float32"),
        ({"head": 32}, "128 wide"),
        ({"head": 37}, "148 wide"),
        ({"ff_inner_dim": 580}, "uneven width"),
    ],
)
def test_a_block_that_is_not_the_fused_one_is_refused(options, objection):
    assert objection in block_objection(transformer_block(**options), torch.float32)


@pytest.mark.parametrize(
    ("options", "objection"),
    [
        ({"qk_norm": "layer_norm"}, "norms"),
        ({"norm_num_groups": 4}, "norms"),
        ({"cross_attention_norm": "layer_norm", "cross_attention_dim": 24}, "norms"),
        ({"added_kv_proj_dim": 24}, "added keys"),
        ({"residual_connection": True}, "residuals"),
        ({"rescale_output_factor": 2.0}, "residuals"),
        ({"dim_head": 16}, "narrower or wider"),
        ({"kv_heads": 2}, "narrower or wider"),
        ({"scale_qk": False}, "scale"),
        ({"is_causal": True}, "causal"),
        ({"upcast_softmax": True}, "float32"),
    ],
)
def test_an_attention_that_is_not_the_fused_one_is_refused(options, objection):
    attention = Attention(**{"query_dim": 144, "heads": 4, "dim_head": 36, **options})
    assert objection in attention_objection(attention, torch.float32)


def test_what_was_altered_before_is_refused():
    assert "processors" in block_objection(_with_ip_adapter(), torch.float32)
    assert "float16" in block_objection(transformer_block(), torch.float16)
    hooked = transformer_block()
    hooked.attn1.register_forward_hook(lambda *_: None)
    assert "hooks" in block_objection(hooked, torch.float32)
    quantised = transformer_block()
    quantised.attn2.to_k.__class__ = type("Linear8bit", (torch.nn.Linear,), {})
    assert "plain linear" in block_objection(quantised, torch.float32)


def _with_ip_adapter():
    made = transformer_block()
    made.attn2.set_processor(IPAdapterAttnProcessor2_0(hidden_size=144, cross_attention_dim=24))
    return made
