"""From diffusers' modules to the single-file layout of CompVis and Stability: the way back from diffusers' own conversions.

Works on tensors with memory and without (`meta`), so that files of the real architectures can be described without their gigabytes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

Tensors = Mapping[str, torch.Tensor]

_RESNET = (
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("time_emb_proj.", "emb_layers.1."),
    ("conv_shortcut.", "skip_connection."),
)
_UNET = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
}
_VAE_ATTENTION = (
    ("group_norm.", "norm."),
    ("to_q.", "q."),
    ("to_k.", "k."),
    ("to_v.", "v."),
    ("to_out.0.", "proj_out."),
)
_OPEN_CLIP = (
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
)


def unet(module: Any) -> dict[str, torch.Tensor]:
    """Of a UNet2DConditionModel."""
    blocks = module.config.layers_per_block + 1
    return {"model.diffusion_model." + _unet_name(name, blocks): each for name, each in module.state_dict().items()}


def _unet_name(name: str, blocks: int) -> str:
    for ours, theirs in _UNET.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    place, *rest = name.split(".")
    if place == "mid_block":
        kind, number, *inner = rest
        return _inner(f"middle_block.{2 * int(number) + (kind == 'attentions')}", kind, inner)
    level, kind, number, *inner = rest
    if place == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{int(level) * blocks + blocks}.0.op.{inner[-1]}"
        return _inner(f"input_blocks.{1 + int(level) * blocks + int(number)}.{int(kind == 'attentions')}", kind, inner)
    if kind == "upsamplers":
        return f"output_blocks.{int(level) * blocks + blocks - 1}.UP.conv.{inner[-1]}"
    return _inner(f"output_blocks.{int(level) * blocks + int(number)}.{int(kind == 'attentions')}", kind, inner)


def _inner(block: str, kind: str, inner: list[str]) -> str:
    name = ".".join(inner)
    return f"{block}.{_replaced(name, _RESNET) if kind == 'resnets' else name}"


def _replaced(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for ours, theirs in pairs:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def with_ups(tensors: Tensors) -> dict[str, torch.Tensor]:
    """An upsampler is numbered behind the attention, if its block has one."""
    named = {}
    for name, each in tensors.items():
        if ".UP." in name:
            block = name.partition(".UP.")[0]
            attends = any(other.startswith(f"{block}.1.") for other in tensors)
            name = name.replace(".UP.", ".2." if attends else ".1.")
        named[name] = each
    return named


def vae(module: Any, prefix: str = "first_stage_model.") -> dict[str, torch.Tensor]:
    """Of an AutoencoderKL."""
    levels = len(module.config.block_out_channels)
    return {prefix + name: each for name, each in _vae(module.state_dict(), levels)}


def _vae(tensors: Tensors, levels: int) -> Iterator[tuple[str, torch.Tensor]]:
    for name, each in tensors.items():
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        side, *rest = name.split(".")
        if rest[0] == "mid_block" and rest[1] == "attentions":
            inner = _replaced(".".join(rest[3:]), _VAE_ATTENTION)
            square = inner.endswith("weight") and not inner.startswith("norm")
            yield f"{side}.mid.attn_1.{inner}", each[:, :, None, None] if square else each
        elif rest[0] == "mid_block":
            yield f"{side}.mid.block_{int(rest[2]) + 1}.{'.'.join(rest[3:])}", each
        elif rest[0] in ("down_blocks", "up_blocks"):
            way = "down" if rest[0] == "down_blocks" else "up"
            level = int(rest[1]) if way == "down" else levels - 1 - int(rest[1])
            inner = (
                f"{way}sample.{'.'.join(rest[4:])}"
                if "samplers" in rest[2]
                else f"block.{rest[3]}.{'.'.join(rest[4:])}"
            )
            yield f"{side}.{way}.{level}.{inner}", each
        else:
            yield name, each


def clip(module: Any, prefix: str = "cond_stage_model.transformer.") -> dict[str, torch.Tensor]:
    """Of a CLIPTextModel, in transformers' layout of then."""
    named = {f"{prefix}text_model.{name}": each for name, each in module.state_dict().items()}
    places = module.config.max_position_embeddings
    return {**named, f"{prefix}text_model.embeddings.position_ids": torch.arange(places)[None]}


def open_clip(module: Any, prefix: str) -> dict[str, torch.Tensor]:
    """Of a CLIPTextModel(WithProjection), in OpenCLIP's layout."""
    found = {name.removeprefix("text_model."): each for name, each in module.state_dict().items()}
    named = {}
    for name, each in found.items():
        if name.startswith("encoder.layers."):
            number, inner = name.removeprefix("encoder.layers.").split(".", 1)
            block = f"transformer.resblocks.{number}."
            if inner.startswith("self_attn.q_proj."):
                ends = inner.rpartition(".")[2]
                three = [found[name.replace("q_proj", which)] for which in ("q_proj", "k_proj", "v_proj")]
                named[f"{block}attn.in_proj_{ends}"] = torch.cat(three)
            elif not inner.startswith(("self_attn.k_proj.", "self_attn.v_proj.")):
                named[block + _replaced(inner.replace("self_attn.", "attn."), _OPEN_CLIP)] = each
        else:
            named[_top(name)] = each.T.contiguous() if name == "text_projection.weight" else each
    named["logit_scale"] = torch.zeros(())
    return {prefix + name: each for name, each in named.items()}


def _top(name: str) -> str:
    return {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
        "text_projection.weight": "text_projection",
    }[name]
