"""DeepSpeed's fused modules with a diffusers module's weights, behind that module's own signature.

Of its kernels these run: layer norm; bias, residual and layer norm in one; bias and GEGLU in one; bias and residual in one; Triton flash
attention. They read and write nothing but their arguments. Four things are not left as DeepSpeed (0.19.8) has them:

1. Its linear layers and its transpositions write into one workspace of the process, which its first layer allocates at its first call, for
   the batch of that call. It is not grown for other layers, checked by none, freed and moved when a larger batch comes (under the graphs
   that captured it), and shared by all models and streams. Here torch multiplies and transposes, into memory of torch's.
2. Its Triton kernel reads beyond the end where the number of tokens is no multiple of 64 (checked in Triton's interpreter: NaN, and a
   corrupted heap). Those sizes are torch's attention's.
3. Its kernels take a tensor's address and not its strides, and diffusers hands them a transposed view unless it is channels-last.
4. `LayerNormOp` of the package does bias, residual and norm in separate float32 operations; the fused kernel for it is compiled, and
   unused. Here it is used.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from collodion.worker.optimize.deepspeed_kernels import Kernels

_TOKENS = 64  # the smallest block of its attention: see rule 2
_NARROWEST_HEAD = 16  # that Triton multiplies


class InjectedBlock(nn.Module):
    """In the place of a `BasicTransformerBlock`. Takes no masks, no adapters and no options of attention processors."""

    def __init__(self, fused: nn.Module) -> None:
        super().__init__()
        self.fused = fused

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        timestep: torch.Tensor | None = None,  # noqa: ARG002 - of blocks with adaptive norms
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: torch.Tensor | None = None,  # noqa: ARG002 - of blocks with adaptive norms
        added_cond_kwargs: dict[str, torch.Tensor] | None = None,  # noqa: ARG002 - of blocks with adaptive norms
    ) -> torch.Tensor:
        """hidden_states: (rows, tokens, width). encoder_hidden_states: (rows, tokens of the text, its width). Raises RuntimeError."""
        _refuse(attention_mask, encoder_attention_mask, cross_attention_kwargs)
        if encoder_hidden_states is None:
            raise RuntimeError("a block of DeepSpeed's was called without a text to look at")
        fused: torch.Tensor = self.fused(hidden_states.contiguous(), context=encoder_hidden_states)
        return fused


class InjectedAttention(nn.Module):
    """In the place of an `Attention`. cross: whether it looks at another tensor than the one that is changed."""

    def __init__(self, fused: nn.Module, cross: bool) -> None:
        super().__init__()
        self.fused = fused
        self.cross = cross

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """Both: (rows, tokens, width). Raises RuntimeError."""
        _refuse(attention_mask, None, options)
        if self.cross != (encoder_hidden_states is not None):
            raise RuntimeError(f"an attention of DeepSpeed's that looks at {'a text' if self.cross else 'itself'} only")
        fused: torch.Tensor = self.fused(hidden_states.contiguous(), context=encoder_hidden_states)
        return fused


def injected(module: Any, kernels: Kernels, dtype: torch.dtype) -> nn.Module:
    """What takes this module's place. It shares its weights where they lie as DeepSpeed wants them, and copies the rest."""
    if hasattr(module, "attn1"):
        return InjectedBlock(fused_block(module, kernels, dtype))
    return InjectedAttention(fused_attention(module, kernels, dtype), module.is_cross_attention)


def fused_block(block: Any, kernels: Kernels, dtype: torch.dtype) -> Any:
    """DeepSpeed's block with this one's weights."""
    first, second = (fused_attention(one, kernels, dtype) for one in (block.attn1, block.attn2))
    norms = {"norm1": block.norm1, "norm2": block.norm2, "norm3": block.norm3}
    parts = SimpleNamespace(ff=block.ff, attn1=first, attn2=second, **norms)
    fused = kernels.block(parts, kernels.block_config())
    fused.layer_norm.layer_norm_residual_store_pre_ln_res = kernels.residual_norm
    return fused


def fused_attention(attention: Any, kernels: Kernels, dtype: torch.dtype) -> Any:
    """DeepSpeed's attention with this one's weights, which it wants as (inputs, outputs)."""
    config = kernels.attention_config(
        hidden_size=attention.query_dim, heads=attention.heads, dtype=dtype, triangular_masking=False
    )
    fused = kernels.attention(config)
    query, key, value = (layer.weight.data for layer in (attention.to_q, attention.to_k, attention.to_v))
    cross = attention.is_cross_attention
    fused.attn_qkvw = None if cross else _constant(torch.cat([query, key, value]).t())
    fused.attn_qw, fused.attn_kw, fused.attn_vw = (
        _constant(weight.t()) if cross else None for weight in (query, key, value)
    )
    fused.attn_qkvb = None
    fused.attn_ow = _constant(attention.to_out[0].weight.data.t())
    fused.attn_ob = _constant(attention.to_out[0].bias.data)
    fused.linear_func = Projection()
    fused.pad_transform_func = Heads()
    fused.triton_flash_attn_kernel = Flash(fused.triton_flash_attn_kernel)
    fused.allocate_workspace = _nothing
    return fused


class Projection(nn.Module):
    """What its `LinearOp` computes, by torch."""

    def forward(
        self,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        add_bias: bool,
        apart: bool,
        heads: int,
        external_cache: object = None,  # noqa: ARG002 - of text models
        num_layers: object = None,  # noqa: ARG002 - of text models
    ) -> torch.Tensor:
        """(rows, tokens, outputs); or, `apart`, queries, keys and values: (3, rows, heads, tokens, width of a head and zeros)."""
        outputs = functional.linear(inputs, weight.t(), bias if add_bias else None)
        if not apart:
            return outputs
        rows, tokens, _ = outputs.shape
        by_head = outputs.view(rows, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        width = by_head.shape[-1]
        padded = max(_NARROWEST_HEAD, 1 << (width - 1).bit_length())
        if padded == width:
            return by_head.contiguous()
        spread = outputs.new_zeros(3, rows, heads, tokens, padded)
        spread[..., :width] = by_head
        return spread


class Heads(nn.Module):
    """What its `PadTransformOp` computes, without a copy."""

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        heads: int,
        padded: bool,  # noqa: ARG002 - never where this is called
    ) -> tuple[torch.Tensor, ...]:
        """Each of (rows, tokens, width) as (rows, heads, tokens, width of a head)."""
        return tuple(one.reshape(*one.shape[:2], heads, -1).transpose(1, 2) for one in (query, key, value))


class Flash(nn.Module):
    """Its Triton kernel where that is right, torch's attention elsewhere."""

    def __init__(self, kernel: nn.Module) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, by_128: bool
    ) -> torch.Tensor:
        """All of (rows, heads, tokens, padded width), contiguous."""
        if query.shape[2] % _TOKENS:
            return functional.scaled_dot_product_attention(query, key, value, scale=scale)
        attended: torch.Tensor = self.kernel(query, key, value, scale, by_128)
        return attended


def _refuse(mask: object, text_mask: object, options: dict[str, Any] | None) -> None:
    if mask is not None or text_mask is not None:
        raise RuntimeError("DeepSpeed's attention takes no mask: rows of one call must have prompts of one length")
    if options:
        raise RuntimeError(f"DeepSpeed's attention takes no options, but was given {', '.join(sorted(options))}")


def _constant(weight: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(weight.contiguous(), requires_grad=False)


def _nothing(size: object) -> None:
    """In the place of `allocate_workspace`: see rule 1."""
