"""Tiny models with random weights of the real architectures, in both layouts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from collodion.worker.registry import checkpoints, folders, modules
from collodion.worker.registry.sources import Part
from collodion.worker.registry.vocabulary import clip_tokenizer
from tests.unit.registry import compvis

_CLIP = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 1,
    "num_hidden_layers": 2,
    "projection_dim": 64,
}
_UNET = {"layers_per_block": 1, "sample_size": 8}
_VAE = {
    "block_out_channels": [32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "sample_size": 16,
}
_SMALL: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "sd1": {
        "unet": {
            **_UNET,
            "block_out_channels": [32, 64],
            "cross_attention_dim": 64,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        },
        "vae": _VAE,
        "text_encoder": _CLIP,
    },
    "sd2": {
        "unet": {
            **_UNET,
            "attention_head_dim": [1, 2],
            "block_out_channels": [64, 128],
            "cross_attention_dim": 64,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        },
        "vae": _VAE,
        "text_encoder": _CLIP,
    },
    "sdxl": {
        "unet": {
            **_UNET,
            "attention_head_dim": [1, 2],
            "block_out_channels": [64, 128],
            "cross_attention_dim": 128,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2],
            "projection_class_embeddings_input_dim": 6 * 256 + 64,
        },
        "vae": _VAE,
        "text_encoder": _CLIP,
        "text_encoder_2": _CLIP,
    },
}


@dataclass(frozen=True)
class Tiny:
    """A model in memory, in diffusers' layout and in CompVis'."""

    base: str
    pipeline: Any
    tensors: dict[str, torch.Tensor]

    def save(self, path: Path, metadata: dict[str, str] | None = None, **more: torch.Tensor) -> Path:
        """As a single file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: each.contiguous() for name, each in {**self.tensors, **more}.items()}, path, metadata)
        return path


def published(base: str, part: str) -> dict[str, Any]:
    """The configuration that we ship."""
    configs: dict[str, Any] = checkpoints._published(base)["configs"]
    return dict(configs[part])


def make_tiny(base: str) -> Tiny:
    """The architecture with few channels; the weights are of seed 0."""
    import diffusers

    modules.quieten()
    torch.manual_seed(0)
    said = checkpoints._published(base)
    parts: dict[str, Any] = {}
    for name, (library, class_name) in said["parts"].items():
        kind = modules.class_of(Part(name, library, class_name))
        config = {**published(base, name), **_SMALL[base].get(name, {})}
        if library == "diffusers":
            parts[name] = kind.from_config(config)
        elif class_name == "CLIPTokenizer":
            parts[name] = clip_tokenizer(**config)
        else:
            parts[name] = kind(kind.config_class.from_dict(config)).eval()
    tensors = compvis.with_ups(compvis.unet(parts["unet"])) | compvis.vae(parts["vae"]) | texts(base, parts)
    whole = {**dict.fromkeys(folders.UNUSED), **parts}
    pipeline_class = getattr(diffusers, said["pipeline"])
    if base == "sdxl":
        whole.pop("safety_checker")
        return Tiny(base, pipeline_class(**whole, add_watermarker=False), tensors)
    return Tiny(base, pipeline_class(**whole, requires_safety_checker=False), tensors)


def texts(base: str, parts: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The text encoders' tensors in a single file."""
    if base == "sd1":
        return compvis.clip(parts["text_encoder"])
    if base == "sd2":
        return compvis.open_clip(parts["text_encoder"], checkpoints.OPEN_CLIP)
    first = compvis.clip(parts["text_encoder"], checkpoints.CLIP[1])
    return first | compvis.open_clip(parts["text_encoder_2"], checkpoints.OPEN_CLIP_2)


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Tiny]:
    """A tiny model of a base; made once."""
    made: dict[str, Tiny] = {}

    def get(base: str) -> Tiny:
        if base not in made:
            made[base] = make_tiny(base)
        return made[base]

    return get


def draw(pipeline: Any, side: int = 16) -> Any:
    """A picture of a pipeline: float32 (side, side, 3) in 0..1."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    with torch.inference_mode():
        return pipeline(
            "a red cat, (very) large",
            num_inference_steps=3,
            height=side,
            width=side,
            generator=generator,
            output_type="np",
        ).images[0]
