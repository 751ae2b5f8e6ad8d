"""Other names of a denoiser's modules than diffusers': those of the code that its makers published, which most trainers use.

Sources: diffusers' own converters of single files (`diffusers.loaders.single_file_utils`: convert_ldm_unet_checkpoint,
convert_flux_transformer_checkpoint_to_diffusers, convert_sd3_…, convert_z_image_…), read backwards. A test holds the names for UNets
against `diffusers.loaders.lora_conversion_utils`.

A name may stand for several modules whose rows lie one behind the other (`qkv`), or for one with its halves exchanged.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn

from collodion.worker.adapters.grammar import flat


class Alternative(NamedTuple):
    """A flat name, and the paths of the modules that it stands for. swapped: the two halves of its rows are exchanged."""

    name: str
    paths: tuple[str, ...]
    swapped: bool = False


def alternatives(model: nn.Module, paths: Sequence[str]) -> list[Alternative]:
    """All other names of the modules at these paths of this component."""
    kind = next((base.__name__ for base in type(model).__mro__ if base.__name__ in _KINDS), "")
    found = list(_KINDS[kind](model, set(paths))) if kind else []
    return [Alternative(flat(name), members, swapped) for name, members, swapped in found]


def _with(known: set[str], name: str, *paths: str, swapped: bool = False) -> Iterator[Alternative]:
    if all(path in known for path in paths):
        yield Alternative(name, paths, swapped)


# --- UNets -------------------------------------------------------------------------------------------------------------------

_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(?:\.(.+))?")


def _unet(model: nn.Module, known: set[str]) -> Iterator[Alternative]:
    layers = getattr(getattr(model, "config", None), "layers_per_block", None)
    if not isinstance(layers, int):
        return
    for path in known:
        name = _unet_name(path, layers, known)
        if name:
            yield Alternative(name, (path,))


def _unet_name(path: str, layers: int, known: set[str]) -> str | None:
    if found := _UNET_BLOCK.fullmatch(path):
        return _unet_block(found, layers, known)
    if path in _UNET_ENDS:
        return _UNET_ENDS[path]
    parts = path.split(".")
    block, rest = ".".join(parts[:3]), ".".join(parts[3:])
    return f"{_UNET_ENDS[block]}.{_RESNET.get(rest, rest)}" if block in _UNET_ENDS else None


def _unet_block(found: re.Match[str], layers: int, known: set[str]) -> str:
    side, block, kind, place, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.op"
    if kind == "upsamplers":
        attends = any(path.startswith(f"up_blocks.{block}.attentions.") for path in known)
        return f"output_blocks.{block * (layers + 1) + layers}.{2 if attends else 1}.conv"
    number = block * (layers + 1) + place + (1 if side == "down" else 0)
    within = "0" if kind == "resnets" else "1"
    return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{within}.{_RESNET.get(rest, rest)}"


# --- FLUX --------------------------------------------------------------------------------------------------------------------

_FLUX_ENDS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
_FLUX_DOUBLE = {
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "proj_lora1": "attn.to_out.0",  # the last two as XLabs names them
    "proj_lora2": "attn.to_add_out",
}
_IMAGE_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_TEXT_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")


def _flux(_: nn.Module, known: set[str]) -> Iterator[Alternative]:
    for name, path in _FLUX_ENDS.items():
        yield from _with(known, name, path)
    yield from _with(known, "final_layer.adaLN_modulation.1", "norm_out.linear", swapped=True)
    for block in _numbers("transformer_blocks", known):
        here, there = f"transformer_blocks.{block}.", f"double_blocks.{block}."
        for name, path in _FLUX_DOUBLE.items():
            yield from _with(known, there + name, here + path)
        for names, paths in ((("img_attn.qkv", "qkv_lora1"), _IMAGE_QKV), (("txt_attn.qkv", "qkv_lora2"), _TEXT_QKV)):
            for name in names:
                yield from _with(known, there + name, *(here + path for path in paths))
    for block in _numbers("single_transformer_blocks", known):
        here, there = f"single_transformer_blocks.{block}.", f"single_blocks.{block}."
        qkv = tuple(here + path for path in _IMAGE_QKV)
        yield from _with(known, there + "linear1", *qkv, here + "proj_mlp")
        yield from _with(known, there + "linear2", here + "proj_out")
        yield from _with(known, there + "modulation.lin", here + "norm.linear")
        yield from _with(known, there + "qkv", *qkv)  # these two as XLabs names them
        yield from _with(known, there + "proj", here + "proj_out")


# --- SD3 ---------------------------------------------------------------------------------------------------------------------

_SD3_ENDS = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
_SD3_BLOCK = {
    "x_block.attn.proj": "attn.to_out.0",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "x_block.adaLN_modulation.1": "norm1.linear",
    "context_block.attn.proj": "attn.to_add_out",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
}
_SECOND_QKV = ("attn2.to_q", "attn2.to_k", "attn2.to_v")


def _sd3(_: nn.Module, known: set[str]) -> Iterator[Alternative]:
    for name, path in _SD3_ENDS.items():
        yield from _with(known, name, path)
    yield from _with(known, "final_layer.adaLN_modulation.1", "norm_out.linear", swapped=True)
    blocks = _numbers("transformer_blocks", known)
    for block in blocks:
        here, there = f"transformer_blocks.{block}.", f"joint_blocks.{block}."
        for name, path in _SD3_BLOCK.items():
            yield from _with(known, there + name, here + path)
        # The last block only reads the text: its norm there is one of AdaLayerNormContinuous, which has shift and scale exchanged.
        last = block == blocks[-1]
        context = here + "norm1_context.linear"
        yield from _with(known, there + "context_block.adaLN_modulation.1", context, swapped=last)
        for name, paths in (
            ("x_block.attn.qkv", _IMAGE_QKV),
            ("context_block.attn.qkv", _TEXT_QKV),
            ("x_block.attn2.qkv", _SECOND_QKV),
        ):
            yield from _with(known, there + name, *(here + path for path in paths))


# --- Z-Image -----------------------------------------------------------------------------------------------------------------


def _z_image(_: nn.Module, known: set[str]) -> Iterator[Alternative]:
    for path in known:
        if path.endswith(".attention.to_q"):
            here = path.removesuffix("to_q")
            yield from _with(known, here + "qkv", here + "to_q", here + "to_k", here + "to_v")
            yield from _with(known, here + "out", here + "to_out.0")
        elif found := re.fullmatch(r"all_(x_embedder|final_layer)\.2-1(\..+)?", path):
            yield Alternative(found[1] + (found[2] or ""), (path,))


_KINDS: dict[str, Any] = {
    "UNet2DConditionModel": _unet,
    "FluxTransformer2DModel": _flux,
    "SD3Transformer2DModel": _sd3,
    "ZImageTransformer2DModel": _z_image,
}


def _numbers(blocks: str, known: set[str]) -> list[int]:
    found = (re.match(rf"{blocks}\.(\d+)\.", path) for path in known)
    return sorted({int(match[1]) for match in found if match})
