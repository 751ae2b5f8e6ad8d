"""From the tensors of a single file to those of diffusers' modules, by diffusers' own conversions."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)

from collodion.worker.registry.checkpoints import OPEN_CLIP, OPEN_CLIP_2
from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.registry.recognising import VAE_PREFIXES
from collodion.worker.registry.sources import Part

Tensors = dict[str, torch.Tensor]

_DIFFUSERS_VAE = "decoder.up_blocks."


def converted(part: Part, module: Any, tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """The tensors of a part, as `module` names them. Raises ModelUnusable."""
    try:
        match part.name:
            case "unet":
                return _present(convert_ldm_unet_checkpoint(tensors, config))
            case "vae":
                return _vae(tensors, config)
            case _:
                return _texts(module, tensors)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelUnusable(f"its {part.name} is of an unknown layout ({type(error).__name__}: {error})") from error


def _vae(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    for prefix in VAE_PREFIXES:
        if any(name.startswith(prefix + _DIFFUSERS_VAE) for name in tensors):
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return _present(convert_ldm_vae_checkpoint(tensors, config))


def _texts(module: Any, tensors: Tensors) -> Tensors:
    prefix = next((each for each in (OPEN_CLIP, OPEN_CLIP_2) if any(name.startswith(each) for name in tensors)), None)
    named = convert_open_clip_checkpoint(module, tensors, prefix) if prefix else convert_ldm_clip_checkpoint(tensors)
    inner = "text_model."
    if any(name.startswith(inner) for name in module.state_dict()):
        return {name if name.startswith((inner, "text_projection")) else inner + name: named[name] for name in named}
    return {name.removeprefix(inner): tensor for name, tensor in named.items()}


def _present(tensors: Tensors) -> Tensors:
    """The conversions note None for what they looked for in vain; it is missed later, by name."""
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}
