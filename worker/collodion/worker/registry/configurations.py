"""The configurations of a model's parts, without its weights."""

from collections.abc import Mapping
from typing import Any

from collodion.worker.registry.checkpoints import checkpoint_of, vae_alone
from collodion.worker.registry.documents import json_object
from collodion.worker.registry.folders import INDEX, MODEL, part_config
from collodion.worker.registry.headers import read_header
from collodion.worker.registry.sources import ModelSource, Part, SourceKind

Configs = Mapping[str, Mapping[str, Any]]


def configs_of(source: ModelSource) -> Configs:
    """By the names that the parts have in the pipeline; of tokenizers and schedulers too; the index itself, with the pipeline's
    options, is `model_index`. Raises ModelUnusable.
    """
    if source.kind is SourceKind.FOLDER:
        configs = {part.name: part_config(part) for part in source.parts}
        configs[MODEL] = json_object(source.path / INDEX)
    else:
        header = read_header(source.path)
        configs = dict(checkpoint_of(header, source.path, source.sidecar).configs)
    if source.vae is not None:
        configs["vae"] = _of_vae(source.vae.part, configs["vae"])
    return configs


def _of_vae(part: Part, own: Mapping[str, Any]) -> Mapping[str, Any]:
    return part_config(part) if part.folder is not None else vae_alone(read_header(part.files[0].path), own)
