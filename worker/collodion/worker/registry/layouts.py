"""Reads the architecture of a latent diffusion model off the keys and shapes of its single file (CompVis' layout).

Channels, levels, depths and widths are in the shapes. What is not (number of heads, groups of the norms, activation) is taken from
the architecture's published configuration (`configs/`). What does not fit that scheme is refused: a guess would draw noise.
"""

import re
from collections.abc import Mapping
from typing import Any

from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.registry.headers import Header
from collodion.worker.registry.recognising import UNET

_HEAD_WIDTH = 64  # SD 2 and SDXL; SD 1 has eight heads, however wide
_Config = dict[str, Any]

_SD2_LAYERS = 23  # what SD 2.x attends to is its text encoder's last layer but one, so the last is not loaded


def unet_config(header: Header, published: Mapping[str, Any]) -> _Config:
    """The UNet's configuration as diffusers has it. Raises ModelUnusable."""
    blocks = _Blocks(header)
    levels = blocks.levels()
    channels = [level[0] for level in levels]
    depths = [level[1] for level in levels]
    if len({level[2] for level in levels}) != 1 or any(len(set(depth)) != 1 for depth in depths):
        raise blocks.strange("its levels have different numbers of blocks")
    attends = [depth[0] > 0 for depth in depths]
    if not any(attends):
        raise blocks.strange("it has no cross-attention")
    deep = [max(depth[0], 1) for depth in depths]
    if blocks.depth("middle_block.1") != deep[-1]:
        raise blocks.strange("its middle is not as deep as its last level (a distilled one, perhaps)")
    linear = blocks.uses_linear()
    return {
        **published,
        "in_channels": blocks.width("input_blocks.0.0.weight", 1),
        "out_channels": blocks.width("out.2.weight", 0),
        "block_out_channels": channels,
        "layers_per_block": levels[0][2],
        "down_block_types": ["CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attends)],
        "transformer_layers_per_block": deep,
        "cross_attention_dim": blocks.context_width(),
        "use_linear_projection": linear,
        "attention_head_dim": [width // _HEAD_WIDTH for width in channels]
        if linear
        else published["attention_head_dim"],
        **blocks.conditions(published),
    }


def vae_config(header: Header, prefix: str, published: Mapping[str, Any]) -> _Config:
    """The configuration of the VAE whose tensors' names begin with `prefix`. Raises ModelUnusable."""
    channels: list[int] = []
    while (shape := header.shape(f"{prefix}encoder.down.{len(channels)}.block.0.conv1.weight")) is not None:
        channels.append(shape[0])
    convs = [
        header.shape(f"{prefix}{name}.weight") for name in ("encoder.conv_in", "decoder.conv_in", "decoder.conv_out")
    ]
    if not channels or any(shape is None or len(shape) != 4 for shape in convs):
        raise ModelUnusable(f"{header.path} has a VAE of an unknown layout")
    pictures, latents, out = (shape for shape in convs if shape is not None)
    blocks = len(_numbers(header, re.escape(prefix) + r"encoder\.down\.0\.block\.(\d+)\."))
    return {
        **published,
        "in_channels": pictures[1],
        "out_channels": out[0],
        "latent_channels": latents[1],
        "block_out_channels": channels,
        "layers_per_block": blocks,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "mid_block_add_attention": f"{prefix}encoder.mid.attn_1.q.weight" in header.tensors,
        "use_quant_conv": f"{prefix}quant_conv.weight" in header.tensors,
        "use_post_quant_conv": f"{prefix}post_quant_conv.weight" in header.tensors,
    }


def clip_config(header: Header, prefix: str, published: Mapping[str, Any]) -> _Config:
    """Of a text encoder in transformers' layout: `prefix` is followed by `embeddings.…`. Raises ModelUnusable."""
    words = _shape(header, f"{prefix}embeddings.token_embedding.weight")
    places = _shape(header, f"{prefix}embeddings.position_embedding.weight")
    inner = _shape(header, f"{prefix}encoder.layers.0.mlp.fc1.weight")
    layers = _numbers(header, re.escape(prefix) + r"encoder\.layers\.(\d+)\.")
    return _clip(published, words, places[0], inner[0], len(layers))


def open_clip_config(header: Header, prefix: str, published: Mapping[str, Any], *, projects: bool) -> _Config:
    """Of a text encoder in OpenCLIP's layout; one that does not project is SD 2.x's. Raises ModelUnusable."""
    words = _shape(header, f"{prefix}token_embedding.weight")
    places = _shape(header, f"{prefix}positional_embedding")
    inner = _shape(header, f"{prefix}transformer.resblocks.0.mlp.c_fc.weight")
    layers = _numbers(header, re.escape(prefix) + r"transformer\.resblocks\.(\d+)\.")
    if not projects:
        return _clip(published, words, places[0], inner[0], min(len(layers), _SD2_LAYERS))
    projection = _shape(header, f"{prefix}text_projection")
    return _clip(published, words, places[0], inner[0], len(layers)) | {"projection_dim": projection[1]}


def _clip(published: Mapping[str, Any], words: tuple[int, ...], places: int, inner: int, layers: int) -> _Config:
    return {
        **published,
        "vocab_size": words[0],
        "hidden_size": words[1],
        "num_attention_heads": max(1, words[1] // _HEAD_WIDTH),
        "max_position_embeddings": places,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
    }


def _shape(header: Header, name: str) -> tuple[int, int]:
    shape = header.shape(name)
    if shape is None or len(shape) != 2:
        raise ModelUnusable(f"{header.path} has no text encoder that fits: {name} is {shape and list(shape)}")
    return shape[0], shape[1]


def _numbers(header: Header, pattern: str) -> set[int]:
    """The numbers that the pattern finds in the tensors' names."""
    return {int(number) for number in re.findall(f"^{pattern}", "\n".join(header.tensors), re.MULTILINE)}


class _Blocks:
    """The blocks of a UNet in CompVis' layout."""

    def __init__(self, header: Header) -> None:
        self._header = header

    def strange(self, why: str) -> ModelUnusable:
        """What to raise."""
        return ModelUnusable(f"{self._header.path} has a UNet of an unknown layout: {why}")

    def width(self, name: str, axis: int) -> int:
        """Of a tensor that has to be there."""
        shape = self._header.shape(UNET + name)
        if shape is None or len(shape) <= axis:
            raise self.strange(f"{UNET}{name} is {shape and list(shape)}")
        return shape[axis]

    def levels(self) -> list[tuple[int, list[int], int]]:
        """Channels of each level, depths of its transformers, number of its blocks."""
        levels: list[tuple[int, list[int], int]] = []
        channels, depths = 0, list[int]()
        for index in sorted(_numbers(self._header, re.escape(UNET) + r"input_blocks\.(\d+)\."))[1:]:
            block = f"input_blocks.{index}"
            if UNET + f"{block}.0.op.weight" in self._header.tensors:
                levels.append((channels, depths, len(depths)))
                depths = []
                continue
            channels = self.width(f"{block}.0.out_layers.3.weight", 0)
            depths.append(self.depth(f"{block}.1"))
        return [*levels, (channels, depths, len(depths))]

    def depth(self, transformer: str) -> int:
        """How many blocks this transformer has, 0 if it is not there."""
        return len(_numbers(self._header, re.escape(f"{UNET}{transformer}.transformer_blocks.") + r"(\d+)\."))

    def conditions(self, published: Mapping[str, Any]) -> _Config:
        """What the denoiser is told beside texts and time: sizes and a pooled text in SDXL, nothing else in any that we know."""
        there = UNET + "label_emb.0.0.weight" in self._header.tensors
        if there != (published.get("addition_embed_type") is not None):
            raise self.strange("it is told more, or less, than texts and time (unCLIP, upscaling)")
        return {"projection_class_embeddings_input_dim": self.width("label_emb.0.0.weight", 1)} if there else {}

    def context_width(self) -> int:
        """Of the texts that it attends to."""
        found = {
            entry.shape[1]
            for name, entry in self._header.tensors.items()
            if name.startswith(UNET) and name.endswith("attn2.to_k.weight") and len(entry.shape) == 2
        }
        if len(found) != 1:
            raise self.strange(f"it attends to texts {sorted(found)} wide")
        return found.pop()

    def uses_linear(self) -> bool:
        """Whether its transformers are entered by a matrix, not by a convolution."""
        shape = next(
            (entry.shape for name, entry in self._header.tensors.items() if name.endswith("1.proj_in.weight")), ()
        )
        return len(shape) == 2
