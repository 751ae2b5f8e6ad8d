"""Diffusers folders: a `model_index.json` that names the parts, and a folder for each part.

1. Code is never run: not the folder's (Python files are not even looked at), and not another package's than diffusers and transformers.
2. What an index of shards names lies in the same folder as the index. Links may lead anywhere: a Hugging Face cache is made of them.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from collodion.worker.registry.documents import json_object, license_of
from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.registry.headers import Header, read_header
from collodion.worker.registry.sidecars import read_sidecar
from collodion.worker.registry.sources import ModelSource, Part, SourceKind, VaeSource, WeightFile

INDEX = "model_index.json"
SIDECAR = "collodion.json"
MODEL = "model_index"
"""The name of the index itself among a model's configurations."""
UNUSED = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
"""Parts that are not loaded: what judges pictures, and what reads those that a request brings as prompts."""

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
"""How files end that may hold code."""

_LIBRARIES = frozenset({"diffusers", "transformers"})
_CLASS = re.compile(r"[A-Z][A-Za-z0-9_]*")
_WITHOUT_WEIGHTS = ("Scheduler", "Tokenizer", "TokenizerFast", "Processor", "ProcessorFast", "FeatureExtractor")
_CONFIGS = ("config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json")
_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
_VARIANTS = ("", ".fp16", ".bf16", ".fp32")
_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


def read_folder(folder: Path, name: str) -> ModelSource:
    """The model in a folder that has a `model_index.json`. Raises ModelUnusable."""
    index = json_object(folder / INDEX)
    headers: list[Header] = []
    parts = tuple(_with_weights(part, headers) for part in parts_of(folder, index))
    for part in parts:
        part_config(part)  # raises
    sidecar = read_sidecar(folder / SIDECAR, of_folder=True)
    return ModelSource(
        name=name,
        kind=SourceKind.FOLDER,
        path=folder,
        pipeline=pipeline_of(index),
        parts=parts,
        size_bytes=sum(file.size_bytes for part in parts for file in part.files),
        dtype=prevailing_dtype(headers),
        license=sidecar.get("license") or license_of(folder),
        sidecar=sidecar,
    )


def pipeline_of(index: Mapping[str, Any]) -> str:
    """The class that the index names, known or not: `collodion.worker.families.catalog` says which are run."""
    return str(index.get("_class_name"))[:100]


def read_vae_folder(folder: Path, name: str) -> VaeSource:
    """The VAE in a folder that has a `config.json` of diffusers'. Raises ModelUnusable."""
    said = json_object(folder / "config.json").get("_class_name")
    if not isinstance(said, str) or not said.startswith("Autoencoder"):
        raise ModelUnusable(f"{folder} is a {str(said)[:100]} alone, of which no model can be made")
    part = _holding(Part("vae", "diffusers", said, folder), weights_in(folder, "diffusers"))
    return VaeSource(name, folder, part, sum(file.size_bytes for file in part.files))


def part_config(part: Part) -> Mapping[str, Any]:
    """What the part's configuration says, whatever kind of part it is. Raises ModelUnusable."""
    assert part.folder is not None
    for name in _CONFIGS:
        if (part.folder / name).is_file():
            said = json_object(part.folder / name)
            if said.get("quantization_config"):
                raise ModelUnusable(f"{part.folder} is quantized, which this version does not run")
            return said
    raise ModelUnusable(f"{part.folder} lacks its configuration ({' or '.join(_CONFIGS[:3])})")


def weights_in(folder: Path, library: str) -> list[Header]:
    """The checked headers of a part's weights, one for each file. Raises ModelUnusable."""
    stem = _STEMS[library]
    for variant in _VARIANTS:
        whole = folder / f"{stem}{variant}.safetensors"
        if whole.is_file():
            return [read_header(whole)]
        for index in (f"{stem}.safetensors.index{variant}.json", f"{stem}{variant}.safetensors.index.json"):
            if (folder / index).is_file():
                return _shards(folder / index)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES) if folder.is_dir() else []
    if pickles:
        wanted = folder / f"{stem}.safetensors"
        raise ModelUnusable(
            f"{folder} has its weights as {pickles[0]}, which may hold code: `collodion convert {folder / pickles[0]} {wanted}`"
        )
    raise ModelUnusable(f"{folder} lacks its weights ({stem}.safetensors)")


def prevailing_dtype(headers: list[Header]) -> str:
    """In which most of the numbers are stored; as torch names it, empty if it is no floating point."""
    numbers: Counter[str] = Counter()
    for header in headers:
        for entry in header.tensors.values():
            numbers[entry.dtype] += entry.numbers
    return _DTYPES.get(max(numbers, key=lambda dtype: numbers[dtype], default=""), "")


def parts_of(folder: Path, index: Mapping[str, Any]) -> list[Part]:
    """The parts that the index names, as far as they are used, without their weights. Raises ModelUnusable."""
    return [
        _part(folder, name, entry)
        for name, entry in sorted(index.items())
        if isinstance(entry, list) and any(entry) and name not in UNUSED and not name.startswith("_")
    ]


def _part(folder: Path, name: str, entry: list[Any]) -> Part:
    library, class_name = (*entry, None, None)[:2]
    if library not in _LIBRARIES:
        raise ModelUnusable(f"{folder} wants code of its own for {name[:100]} ({str(library)[:100]}), which is not run")
    if not name.isidentifier() or not isinstance(class_name, str) or not _CLASS.fullmatch(class_name):
        raise ModelUnusable(f"{folder / INDEX} has a part {name[:100]!r} that is {str(class_name)[:100]!r}")
    if not (folder / name).is_dir():
        raise ModelUnusable(f"{folder} lacks its part {name}")
    return Part(name, str(library), class_name, folder / name)


def _with_weights(part: Part, headers: list[Header]) -> Part:
    """The part with its weights; their headers are added to `headers`."""
    if part.class_name.endswith(_WITHOUT_WEIGHTS):
        return part
    assert part.folder is not None
    own = weights_in(part.folder, part.library)
    headers += own
    return _holding(part, own)


def _holding(part: Part, headers: list[Header]) -> Part:
    amounts = [header.amount() for header in headers]
    return replace(
        part,
        files=tuple(WeightFile.at(header.path) for header in headers),
        numbers=sum(numbers for numbers, _ in amounts),
        stored_bytes=sum(stored for _, stored in amounts),
    )


def _shards(index: Path) -> list[Header]:
    placed = json_object(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise ModelUnusable(f"{index} has no weight_map")
    files = sorted({_inside(index, file) for file in placed.values()})
    headers = {file: read_header(index.parent / file) for file in files}
    for tensor, file in placed.items():
        if tensor not in headers[file].tensors:
            raise ModelUnusable(f"{index.parent / file} lacks {tensor[:200]!r}, which {index.name} says it holds")
    return list(headers.values())


def _inside(index: Path, file: object) -> str:
    """A shard's name, which has to be a file's beside the index. A link there may lead elsewhere, a name may not."""
    if (
        not isinstance(file, str)
        or PurePosixPath(file).name != file
        or "\\" in file
        or not file.endswith(".safetensors")
    ):
        raise ModelUnusable(f"{index} names {str(file)[:200]!r}, which is no .safetensors file beside it")
    if not (index.parent / file).is_file():
        raise ModelUnusable(f"{index.parent} lacks {file}, which {index.name} names: download it again")
    return file
