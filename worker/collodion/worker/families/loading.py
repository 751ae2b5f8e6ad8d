"""From a diffusers folder to a pipeline of ours.

Only local files, only safetensors, no code from the folder: what its index names has to come from diffusers or transformers.
Whatever is wrong with the folder is a ConfigError that names it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from collodion.process.config import ConfigError
from collodion.worker.config import WorkerConfig
from collodion.worker.families.device import Device
from collodion.worker.families.model_info import describe
from collodion.worker.families.stable_diffusion import StableDiffusion

_FAMILY = "StableDiffusionPipeline"
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
_TRUSTED = frozenset({"diffusers", "transformers"})


def load_folder(name: str, folder: Path, config: WorkerConfig, device: Device) -> StableDiffusion:
    """The model in `folder`, on the device. Raises ConfigError."""
    _check_index(name, folder)
    quieten()
    from diffusers import StableDiffusionPipeline  # gives advice on being imported, so that it has to be quiet before

    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            dtype=device.dtype,
            local_files_only=True,
            use_safetensors=True,
            requires_safety_checker=False,
            **dict.fromkeys(_UNUSED),
        )
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        raise ConfigError(f"model {name!r}: {folder} cannot be loaded: {error}") from error
    _check_parts(name, folder, pipeline)
    pipeline.to(device.place)
    return StableDiffusion(pipeline, describe(name, folder, pipeline, device.dtype), config, device)


def quieten() -> None:
    """Neither progress bars nor advice on standard error; what matters is said by us."""
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _check_index(name: str, folder: Path) -> None:
    try:
        index = json.loads((folder / "model_index.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {name!r}: {folder} is not a diffusers folder: {error}") from error
    if not isinstance(index, dict) or index.get("_class_name") != _FAMILY:
        raise ConfigError(f"model {name!r}: {folder} is not a {_FAMILY}, the only family that this version runs")
    for part, source in _parts(index).items():
        if source not in _TRUSTED:
            raise ConfigError(f"model {name!r}: {folder} wants code of its own for {part} ({source}), which is not run")


def _parts(index: Mapping[str, Any]) -> dict[str, Any]:
    parts = {part: entry[0] for part, entry in index.items() if isinstance(entry, list) and entry}
    return {part: source for part, source in parts.items() if part not in _UNUSED}


def _check_parts(name: str, folder: Path, pipeline: Any) -> None:
    unet = pipeline.unet.config
    if unet.in_channels != unet.out_channels or unet.in_channels != pipeline.vae.config.latent_channels:
        raise ConfigError(f"model {name!r}: {folder} wants more than text and noise (inpainting, depth); not run yet")
    for option in ("time_cond_proj_dim", "addition_embed_type", "class_embed_type"):
        if unet.get(option) is not None:
            raise ConfigError(f"model {name!r}: {folder} has a UNet with {option}, which this version does not run")
