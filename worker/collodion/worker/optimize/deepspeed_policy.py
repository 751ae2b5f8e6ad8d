"""Which parts of a UNet DeepSpeed's inference kernels compute, to the last term.

1. A block matches if every part of it is one that the fused block has. Anything else is an objection: a clause for a person, "" if
   there is none. What the fused block leaves out without a word (a position embedding, a float32 softmax, a processor that adds
   something) is an objection like any other.
2. Where a block does not match, its attentions may.
3. Nothing here imports deepspeed, and nothing is changed.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
from torch import nn

_PROCESSORS = (AttnProcessor, AttnProcessor2_0, FusedAttnProcessor2_0, SlicedAttnProcessor, XFormersAttnProcessor)
"""They differ in their kernels, not in what they compute."""

_NORMS = ("group_norm", "spatial_norm", "norm_q", "norm_k", "norm_cross")

_VECTOR = 8  # numbers of float16 that the kernels read at once, without a remainder
_NARROWEST = (
    129  # layer_norm.cu has several rows in a block up to 128 wide, and does not look where the last of them ends
)
_WIDEST = 16384  # layer_norm.cu launches nothing beyond


@dataclass(frozen=True, eq=False)
class Place:
    """Where a module is."""

    parent: nn.Module
    name: str
    module: Any

    @property
    def kind(self) -> tuple[object, ...]:
        """Modules of one kind run the same kernels."""
        attentions = [self.module] if isinstance(self.module, Attention) else [self.module.attn1, self.module.attn2]
        return type(self.module), *((one.query_dim, one.heads, one.cross_attention_dim) for one in attentions)


@dataclass(frozen=True)
class Survey:
    """What of a UNet can be replaced. all_attentions: those outside of the blocks that can. objections: the most frequent first."""

    blocks: tuple[Place, ...]
    attentions: tuple[Place, ...]
    all_blocks: int
    all_attentions: int
    objections: tuple[str, ...]

    @property
    def found(self) -> tuple[Place, ...]:
        """Everything that can be replaced."""
        return self.blocks + self.attentions


def survey(denoiser: nn.Module, dtype: torch.dtype) -> Survey:
    """dtype: what the weights are in. The modules may be on the meta device."""
    places = [Place(parent, name, child) for parent in denoiser.modules() for name, child in parent.named_children()]
    blocks = [place for place in places if isinstance(place.module, BasicTransformerBlock)]
    to_blocks = [block_objection(place.module, dtype) for place in blocks]
    matching = [place for place, objection in zip(blocks, to_blocks, strict=True) if not objection]
    inside = {id(one) for place in matching for one in (place.module.attn1, place.module.attn2)}
    attentions = [place for place in places if isinstance(place.module, Attention) and id(place.module) not in inside]
    to_attentions = [attention_objection(place.module, dtype) for place in attentions]
    said = Counter(objection for objection in (*to_blocks, *to_attentions) if objection)
    return Survey(
        tuple(matching),
        tuple(place for place, objection in zip(attentions, to_attentions, strict=True) if not objection),
        len(blocks),
        len(attentions),
        tuple(objection for objection, _ in said.most_common()),
    )


def block_objection(block: Any, dtype: torch.dtype) -> str:
    """Why the fused block is not this one."""
    if type(block) is not BasicTransformerBlock:
        return f"blocks of another kind ({type(block).__name__})"
    return (
        _first(
            (block.norm_type != "layer_norm", f"norms of another kind ({block.norm_type})"),
            (block.pos_embed is not None, "position embeddings in their blocks"),
            (hasattr(block, "fuser"), "GLIGEN's fusers"),
            (block.attn2 is None or block.only_cross_attention, "blocks without both attentions"),
            (block.double_self_attention, "blocks with two self-attentions"),
            (_hooked(block), "hooks on their blocks"),
        )
        or _norms_objection((block.norm1, block.norm2, block.norm3), dtype)
        or _feed_forward_objection(block.ff.net, dtype)
        or attention_objection(block.attn1, dtype)
        or attention_objection(block.attn2, dtype)
        or _first(
            (block.attn1.is_cross_attention, "blocks whose first attention looks at the text"),
            (not block.attn2.is_cross_attention, "blocks whose second attention does not look at the text"),
        )
    )


def attention_objection(attention: Any, dtype: torch.dtype) -> str:
    """Why the fused attention is not this one."""
    if type(attention) is not Attention:
        return f"attentions of another kind ({type(attention).__name__})"
    if type(attention.processor) not in _PROCESSORS:
        return f"attention processors of another kind ({type(attention.processor).__name__})"
    projections = (attention.to_q, attention.to_k, attention.to_v, attention.to_out and attention.to_out[0])
    if not all(_plain(layer, nn.Linear, dtype) for layer in projections):
        return f"attentions whose projections are not plain linear layers in {dtype}"
    inner = {attention.inner_dim, attention.inner_kv_dim, attention.query_dim, attention.out_dim}
    return _first(
        (any(layer.bias is not None for layer in projections[:3]), "biases on queries, keys or values"),
        (projections[3].bias is None, "attentions without a bias on their output"),
        (attention.upcast_attention or attention.upcast_softmax, "attention in float32 (upcast_attention)"),
        (any(getattr(attention, name, None) is not None for name in _NORMS), "norms in their attentions"),
        (attention.add_k_proj is not None, "added keys and values"),
        (attention.residual_connection or attention.rescale_output_factor != 1, "residuals in their attentions"),
        (len(inner) > 1, "attentions narrower or wider than their blocks"),
        (not attention.scale_qk, "attentions without their scale"),
        (attention.is_causal, "causal attentions"),
        (_hooked(attention), "hooks on their attentions"),
    )


def _norms_objection(norms: Iterable[Any], dtype: torch.dtype) -> str:
    for norm in norms:
        if not _plain(norm, nn.LayerNorm, dtype) or norm.bias is None:
            return f"norms that are not plain layer norms with weights and biases in {dtype}"
        width = norm.normalized_shape[-1]
        if width % _VECTOR or not _NARROWEST <= width <= _WIDEST:
            return f"blocks {width} wide (the kernels take multiples of {_VECTOR} from {_NARROWEST + 7} to {_WIDEST})"
    return ""


def _feed_forward_objection(net: Any, dtype: torch.dtype) -> str:
    if type(net[0]) is not GEGLU:
        return f"feed-forward layers of another kind ({type(net[0]).__name__})"
    layers = (net[0].proj, net[2])
    if not all(_plain(layer, nn.Linear, dtype) and layer.bias is not None for layer in layers):
        return f"feed-forward layers that are not plain linear layers with biases in {dtype}"
    return "feed-forward layers of an uneven width" if net[2].in_features % _VECTOR else ""


def _plain(layer: Any, kind: type[nn.Module], dtype: torch.dtype) -> bool:
    """Whether its weights are its own and not quantised, adapted or kept elsewhere."""
    weight = getattr(layer, "weight", None)
    return type(layer) is kind and weight is not None and type(weight.data) is torch.Tensor and weight.dtype == dtype


def _hooked(module: nn.Module) -> bool:
    return any(one._forward_hooks or one._forward_pre_hooks for one in module.modules())


def _first(*checks: tuple[bool, str]) -> str:
    return next((objection for objects, objection in checks if objects), "")
