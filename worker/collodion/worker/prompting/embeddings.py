"""Textual-inversion embeddings: vectors that stand for a name in a prompt.

Files are safetensors, in one of these layouts:

    {"emb_params": (n, width)}                                 AUTOMATIC1111, after conversion
    {<any name>: (width,) or (n, width)}                       diffusers
    {"clip_l": (n, width), "clip_g": (n, width)}               SDXL, both text encoders
    {"text_encoders_0": (n, width), "text_encoders_1": …}      SDXL, as diffusers' training scripts write them

Whatever is wrong with a file is an EmbeddingUnusable with a sentence.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

MAX_FILE_BYTES = 16 << 20
"""A window full of vectors for both text encoders of SDXL, in float32, takes 614 KB."""
_PAIRS = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"))


class EmbeddingUnusable(Exception):
    """An embedding that cannot be used. `reason` is a sentence that names it and says what is wrong."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Embedding:
    """`vectors`: for each text encoder that it was made for, (n, width) float32 on the CPU, finite. `digest` is of what they hold."""

    name: str
    vectors: tuple[torch.Tensor, ...]
    digest: str

    def __len__(self) -> int:
        """How many tokens it takes the place of."""
        return len(self.vectors[0])

    def misfit(self, widths: Sequence[int], window: int) -> str | None:
        """Why text encoders of these widths, which read so many tokens at a time, cannot use it; None if they can."""
        mine = [vectors.shape[1] for vectors in self.vectors]
        if mine != list(widths):
            made_for, has = (" and ".join(map(str, each)) for each in (mine, widths))
            return (
                f"the embedding {self.name!r} is for text encoders of width {made_for}; the model's are of width {has}"
            )
        if len(self) > window:
            return f"the embedding {self.name!r} has {len(self)} vectors, and the model reads {window} tokens at a time"
        return None


class EmbeddingFiles(Mapping[str, Embedding]):
    """Embeddings by name, each read when it is asked for: most prompts name none. Any thread; raises EmbeddingUnusable."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths

    def __getitem__(self, name: str) -> Embedding:
        return load_embedding(name, self._paths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def load_embedding(name: str, path: Path) -> Embedding:
    """Reads a file. It is in memory before it is believed, so that what was checked is what is used. Raises EmbeddingUnusable."""
    if path.suffix.lower() != ".safetensors":
        why = f"{path.name} is no .safetensors file; `collodion convert` makes one of it"
        raise EmbeddingUnusable(f"the embedding {name!r} cannot be read: {why}")
    try:
        size = path.stat().st_size if path.is_file() else 0
        if size > MAX_FILE_BYTES:
            raise EmbeddingUnusable(f"the embedding {name!r} has a file of {size} bytes; {MAX_FILE_BYTES} are allowed")
        tensors = safetensors.torch.load(path.read_bytes())
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise EmbeddingUnusable(f"the embedding {name!r} cannot be read: {error}") from error
    return read_embedding(name, tensors)


def read_embedding(name: str, tensors: Mapping[str, torch.Tensor]) -> Embedding:
    """An embedding from what its file holds. Raises EmbeddingUnusable."""
    vectors = tuple(_vectors(name, tensor) for tensor in _in_order(name, tensors))
    if len({len(each) for each in vectors}) > 1:
        raise EmbeddingUnusable(f"the embedding {name!r} has different numbers of vectors for its text encoders")
    digest = hashlib.sha256()
    for each in vectors:
        digest.update(repr(tuple(each.shape)).encode() + each.numpy().tobytes())
    return Embedding(name, vectors, digest.hexdigest())


def _in_order(name: str, tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    if len(tensors) == 1:
        return list(tensors.values())
    for pair in _PAIRS:
        if tensors.keys() == set(pair):
            return [tensors[part] for part in pair]
    held = ", ".join(sorted(tensors)[:4])[:200] or "nothing"
    raise EmbeddingUnusable(f"the embedding {name!r} is in no layout that is known: it holds {held}")


def _vectors(name: str, tensor: torch.Tensor) -> torch.Tensor:
    shape = tuple(tensor.shape)
    if not tensor.is_floating_point() or len(shape) not in (1, 2) or 0 in shape:
        raise EmbeddingUnusable(f"the embedding {name!r} holds {tensor.dtype} of shape {shape}; vectors were expected")
    vectors = tensor.detach().to("cpu", torch.float32).reshape(-1, shape[-1]).contiguous()
    if not bool(vectors.isfinite().all()):
        raise EmbeddingUnusable(f"the embedding {name!r} holds numbers that are not finite")
    return vectors
