"""From a diffusers folder to a pipeline of ours.

Only local files, only safetensors, no code from the folder: what its index names has to come from diffusers or transformers.
Whatever is wrong with the folder is a ConfigError that names it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from collodion.process.config import ConfigError
from collodion.wire.artifacts import DirectoryStore
from collodion.worker.config import WorkerConfig
from collodion.worker.families.architecture import Architecture
from collodion.worker.families.catalog import architecture_of
from collodion.worker.families.device import Device
from collodion.worker.families.latent_diffusion import LatentDiffusion
from collodion.worker.families.model_info import describe, own_defaults
from collodion.worker.uploads import Uploads

_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
_TRUSTED = frozenset({"diffusers", "transformers"})


def load_folder(name: str, folder: Path, config: WorkerConfig, device: Device) -> LatentDiffusion:
    """The model in `folder`, on the device. Raises ConfigError."""
    index = _index(name, folder)
    architecture = architecture_of(str(index.get("_class_name")))
    if architecture is None:
        raise ConfigError(f"model {name!r}: {folder} is a {index.get('_class_name')}, which this version does not run")
    for part, source in _parts(index).items():
        if source not in _TRUSTED:
            raise ConfigError(f"model {name!r}: {folder} wants code of its own for {part} ({source}), which is not run")
    pipeline = _loaded(name, folder, architecture, device.dtype)
    try:
        facts = architecture.facts({**_configs(pipeline), "model_index": index})
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"model {name!r}: {folder} is not run: {error}") from error
    dtype = str(device.dtype).removeprefix("torch.")
    own = own_defaults(name, folder)
    info = describe(name, architecture.family, facts, pipeline.scheduler.config, own, dtype)
    return LatentDiffusion(
        architecture(pipeline.to(device.place)), info, config, device, Uploads(DirectoryStore(config.artifacts))
    )


def quieten() -> None:
    """Neither progress bars nor advice on standard error; what matters is said by us."""
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _loaded(name: str, folder: Path, architecture: type[Architecture], dtype: torch.dtype) -> Any:
    quieten()
    import diffusers  # gives advice on importing a pipeline, so that it has to be quiet before

    pipeline_class = getattr(diffusers, architecture.pipelines[0])
    try:
        pipeline = pipeline_class.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            requires_safety_checker=False,
            **dict.fromkeys(_UNUSED),
        )
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        raise ConfigError(f"model {name!r}: {folder} cannot be loaded: {error}") from error
    return pipeline


def _configs(pipeline: Any) -> dict[str, Any]:
    configs = {name: part.config for name, part in pipeline.components.items() if hasattr(part, "config")}
    tokenizers = {name: part for name, part in pipeline.components.items() if hasattr(part, "model_max_length")}
    return configs | {name: {"model_max_length": part.model_max_length} for name, part in tokenizers.items()}


def _index(name: str, folder: Path) -> Mapping[str, Any]:
    try:
        index = json.loads((folder / "model_index.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {name!r}: {folder} is not a diffusers folder: {error}") from error
    if not isinstance(index, dict):
        raise ConfigError(f"model {name!r}: {folder} is not a diffusers folder: its index is no object")
    return index


def _parts(index: Mapping[str, Any]) -> dict[str, Any]:
    parts = {part: entry[0] for part, entry in index.items() if isinstance(entry, list) and entry}
    return {part: source for part, source in parts.items() if part not in _UNUSED}
