"""What DeepSpeed 0.19.8's kernels compute, in plain torch and float32, as its CUDA and Triton sources say it.

`ops` are stand-ins for its compiled modules. What writes into its workspace is there to be compared with, and forbidden in the stand-ins.
"""

from types import SimpleNamespace

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import nn
from torch.nn import functional


def layer_norm(values, gamma, beta, epsilon):
    """layer_norm.cu, fused_ln. Takes a tensor's address and not its strides."""
    assert values.is_contiguous()
    mean = values.mean(-1, keepdim=True)
    variance = (values - mean).square().mean(-1, keepdim=True)
    return (values - mean) * torch.rsqrt(variance + epsilon) * gamma + beta


def residual_layer_norm(values, bias, residual, gamma, beta, epsilon):
    """layer_norm.cu, fused_residual_ln with preLnResidual: what is normed, and the sum before it."""
    assert values.is_contiguous()
    assert residual.is_contiguous()
    summed = values + bias + residual
    return [layer_norm(summed, gamma, beta, epsilon), summed]


def gated_activation(activation, bias, kind):
    """gelu.cu, fused_gate_activation: the second half of the channels are the gates of the first; erf, not tanh."""
    assert int(kind) == 3  # GATED_GELU
    assert activation.is_contiguous()
    half = activation.shape[-1] // 2
    hidden = activation[..., :half] + bias[:half]
    gates = activation[..., half:] + bias[half:]
    return hidden * (gates * 0.5 * (1.0 + torch.erf(gates * 0.70710678)))


def bias_add_add(activation, bias, other):
    """opt_bias_add.cu, opt_bias_add_add."""
    assert activation.is_contiguous()
    assert other.is_contiguous()
    return activation + (bias + other)


def flash_attention(query, key, value, scale, by_128):
    """triton_ops.py, _fwd_kernel: whole blocks of tokens only, contiguous heads."""
    assert query.shape[2] % (128 if by_128 else 64) == 0
    assert query.is_contiguous()
    assert key.is_contiguous()
    assert value.is_contiguous()
    return torch.softmax(query @ key.transpose(-1, -2) * scale, dim=-1) @ value


def linear_layer(inputs, weight, bias, add_bias, do_flash_attn, heads, transposed=False, rope_theta=10000):
    """pt_binding.cpp, ds_linear_layer: weight is (inputs, outputs); with flash attention, pad_data and bias_add_transform_0213."""
    outputs = inputs @ (weight.t() if transposed else weight)
    if add_bias:
        outputs = outputs + bias
    if not do_flash_attn:
        return outputs
    rows, tokens, width = inputs.shape
    head = width // heads
    apart = outputs.reshape(rows, tokens, 3, heads, head)
    if (head % 32 != 0 and head < 64) or head % 64 != 0:
        padded = 32 if head < 32 else (64 if head < 64 else 128)
        apart = functional.pad(apart, (0, padded - head))
    return apart.permute(2, 0, 3, 1, 4).contiguous()


def pad_transform(query, key, value, heads, add_padding):
    """pt_binding.cpp, padd_add_transform without padding."""
    assert not add_padding
    return [one.reshape(*one.shape[:2], heads, -1).permute(0, 2, 1, 3).contiguous() for one in (query, key, value)]


class FlashAttention(nn.Module):
    """triton_ops.py, triton_flash_attn."""

    def forward(self, q, k, v, sm_scale, block_128=True):
        return flash_attention(q, k, v, sm_scale, block_128)


def attention(weights, inputs, context, heads, out_bias):
    """DeepSpeedDiffusersAttention, with its own linear layer and transposition."""
    width = inputs.shape[-1]
    head = width // heads
    scale = 1 / head**0.5
    if head <= 128 and context is None:
        query, key, value = linear_layer(inputs, weights["attn_qkvw"], None, False, True, heads)
        seen = flash_attention(query, key, value, scale, inputs.shape[1] % 128 == 0)[..., :head]
    else:
        if context is None:
            separate = (inputs @ weights["attn_qkvw"]).chunk(3, dim=-1)
        else:
            separate = (inputs @ weights["attn_qw"], context @ weights["attn_kw"], context @ weights["attn_vw"])
        query, key, value = pad_transform(*separate, heads, False)
        seen = (query @ key.transpose(-1, -2) * scale).softmax(-1) @ value
    seen = seen.permute(0, 2, 1, 3).reshape(*inputs.shape)
    return linear_layer(seen, weights["attn_ow"], weights["attn_ob"], out_bias, False, heads)


def block(weights, inputs, context, heads, epsilons):
    """DeepSpeedDiffusersTransformerBlock. weights: its state dict."""
    first, second = (
        {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
        for prefix in ("attn_1.", "attn_2.")
    )
    normed = layer_norm(inputs, weights["norm1_g"], weights["norm1_b"], epsilons[0])
    seen = attention(first, normed, None, heads, False)
    normed, summed = residual_layer_norm(
        seen, weights["attn_1_bias"], inputs, weights["norm2_g"], weights["norm2_b"], epsilons[1]
    )
    seen = attention(second, normed, context, heads, False)
    normed, summed = residual_layer_norm(
        seen, weights["attn_2_bias"], summed, weights["norm3_g"], weights["norm3_b"], epsilons[2]
    )
    gated = gated_activation(functional.linear(normed, weights["ff1_w"]), weights["ff1_b"], 3)
    return bias_add_add(functional.linear(gated, weights["ff2_w"]), weights["ff2_b"], summed)


def _forbidden(*_):
    raise AssertionError("this writes into DeepSpeed's workspace")


def inference_module():
    """For transformer_inference_op, counting its calls."""
    calls = []

    def counted(function):
        def call(*arguments):
            calls.append(function.__name__)
            return function(*arguments)

        return call

    forbidden = (
        "allocate_workspace",
        "linear_layer",
        "pad_transform",
        "softmax_context",
        "repeat_kv_cache",
    )
    names = [f"{name}_{dtype}" for name in forbidden for dtype in ("fp16", "bf16", "fp32")]
    return SimpleNamespace(
        calls=calls,
        layer_norm=counted(layer_norm),
        layer_norm_residual_store_pre_ln_res=counted(residual_layer_norm),
        gated_activation=counted(gated_activation),
        **dict.fromkeys([*names, "release_workspace", "retake_workspace", "reset_cache"], _forbidden),
    )


def spatial_module():
    """For spatial_inference_op."""
    return SimpleNamespace(nhwc_bias_add=_forbidden, nhwc_bias_add_add=bias_add_add, nhwc_bias_add_bias_add=_forbidden)


def transformer_block(heads=4, head=36, context=24, **options):
    """Of diffusers, with weights everywhere."""
    torch.manual_seed(1)
    made = BasicTransformerBlock(heads * head, heads, head, cross_attention_dim=context, **options)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "norm" in name or name.endswith("bias"):
                weight.add_(torch.randn_like(weight) / 4)  # else all norms and biases are alike
    return made.eval()
