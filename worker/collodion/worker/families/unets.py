"""What Stable Diffusion and SDXL have in common."""

import math
from collections.abc import Mapping
from typing import Any

from collodion.worker.families.architecture import Configs, Facts
from collodion.worker.families.vae import Vae

_PIXEL_MULTIPLE = 8  # what diffusers' pipelines ask for, whatever the VAE
_INPAINTING_CHANNELS = 5  # of the mask and of what it leaves


def unet_facts(configs: Configs, base: str) -> Facts:
    """Of a model with a UNet and CLIP. Raises ValueError for what wants more than prompts, pictures and masks."""
    unet, vae = configs["unet"], configs["vae"]
    more = unet["in_channels"] - vae["latent_channels"]
    if more not in (0, _INPAINTING_CHANNELS) or unet["out_channels"] != vae["latent_channels"]:
        raise ValueError(f"its UNet wants {unet['in_channels']} channels: more than pictures and masks (depth, edits)")
    for option in ("time_cond_proj_dim", "class_embed_type", "encoder_hid_dim_type"):
        if unet.get(option) is not None:
            raise ValueError(f"its UNet has {option} = {unet[option]!r}")
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    height, width = (side * factor for side in _sides(unet["sample_size"]))
    return Facts(
        native=(width, height),
        multiple=math.lcm(_PIXEL_MULTIPLE, factor),
        text_tokens=_text_tokens(configs["tokenizer"]),
        guided_rows=2,
        base=base,
        init_images=True,
        masks=True,
    )


def sees_masks(pipeline: Any) -> bool:
    """Whether it is an inpainting model."""
    more = pipeline.unet.config.in_channels - pipeline.vae.config.latent_channels
    return bool(more == _INPAINTING_CHANNELS)


def latent_sides(vae: Vae, width: int, height: int) -> tuple[int, int]:
    """(H, W) of a latent."""
    return height // vae.factor, width // vae.factor


def _text_tokens(tokenizer: Mapping[str, Any]) -> int:
    return int(tokenizer["model_max_length"]) - 2  # its beginning and its end


def _sides(sample_size: Any) -> tuple[int, int]:
    return (sample_size, sample_size) if isinstance(sample_size, int) else tuple(sample_size)
