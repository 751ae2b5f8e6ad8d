"""What models, adapters and VAEs there are on the disk; `collodion.worker.registry.loading` makes modules of them.

Nothing here imports torch but `loading` and what only it imports.
"""

from collodion.worker.registry.configurations import configs_of
from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.registry.scanning import read_model, scan
from collodion.worker.registry.sources import (
    AdapterSource,
    ModelSource,
    Part,
    Refusal,
    Registry,
    SourceKind,
    VaeSource,
    WeightFile,
)

__all__ = [
    "AdapterSource",
    "ModelSource",
    "ModelUnusable",
    "Part",
    "Refusal",
    "Registry",
    "SourceKind",
    "VaeSource",
    "WeightFile",
    "configs_of",
    "read_model",
    "scan",
]
