"""Files on their own: what each is, and what to do with those that are of no use."""

import re
import shlex
from pathlib import Path

from collodion.wire.jobs import AdapterKind
from collodion.worker.registry.adapter_files import describe_adapter, describe_embedding
from collodion.worker.registry.checkpoints import read_checkpoint, vae_part
from collodion.worker.registry.folders import PICKLES
from collodion.worker.registry.headers import Header, read_header
from collodion.worker.registry.recognising import Kind, kind_of
from collodion.worker.registry.sidecars import sidecar_of
from collodion.worker.registry.sources import AdapterSource, ModelSource, Refusal, VaeSource, WeightFile

_QUANTIZED = ".gguf"
SUFFIXES = (".safetensors", ".sft", *PICKLES, _QUANTIZED)
"""Of files that are looked at."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_FOLDER_INSTEAD = frozenset({Kind.FLUX, Kind.SD3, Kind.TRANSFORMER})


def read_file(path: Path) -> ModelSource | AdapterSource | VaeSource | Refusal:
    """What this file is, without a name. Raises ModelUnusable."""
    if path.suffix.lower() in PICKLES:
        return Refusal(path, _how_to_convert(path))
    if path.suffix.lower() == _QUANTIZED:
        return Refusal(path, f"{path} is quantized (GGUF), which this version does not run")
    if _SHARD.search(path.stem):
        return Refusal(path, f"{path} is a piece of a model: keep the folder whole that it came in")
    header = read_header(path)
    file = WeightFile.at(path)
    match kind_of(header):
        case Kind.CHECKPOINT:
            return read_checkpoint(path, header, file)
        case Kind.VAE:
            return VaeSource("", path, vae_part(header, file), file.size_bytes)
        case Kind.ADAPTER:
            kind, base = describe_adapter(header)
            return AdapterSource("", path, kind, base, file, header.license)
        case Kind.EMBEDDING:
            return AdapterSource("", path, AdapterKind.EMBEDDING, describe_embedding(header), file, header.license)
        case other:
            return Refusal(path, _advice(path, header, other))


def beside(path: Path) -> tuple[Path, ...]:
    """The files beside a single file that say more of it: ours, A1111's, and a pickle's safetensors."""
    return sidecar_of(path), path.with_suffix(".yaml"), path.with_suffix(".safetensors")


def _advice(path: Path, header: Header, kind: Kind) -> str:
    if kind in _FOLDER_INSTEAD:
        return f"{path} is {kind.value}: this version loads such models from diffusers folders"
    if kind is Kind.UNKNOWN:
        first = next(iter(header.tensors), "nothing")
        return f"{path} holds {kind.value} (its first tensor is {first[:100]!r})"
    return f"{path} is {kind.value}, which this version does not use"


def _how_to_convert(path: Path) -> str:
    wanted = path.with_suffix(".safetensors")
    if wanted.exists():
        return f"{path} may hold code and is not read; {wanted.name} beside it is"
    return f"{path} may hold code and is not read: `collodion convert {_word(path)} {_word(wanted)}`"


def _word(path: Path) -> str:
    """As a shell wants it."""
    return shlex.quote(str(path))
