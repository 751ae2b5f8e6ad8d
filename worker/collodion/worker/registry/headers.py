"""What a `.safetensors` file says it holds, believed only after it was checked; no tensor is read, and torch is not needed.

The format (https://github.com/huggingface/safetensors): eight bytes, little-endian, of length n; n bytes of JSON, an object of
tensors by name, each {"dtype", "shape", "data_offsets": [begin, end]} counted from the end of the JSON, and `__metadata__`, an
object of strings; then the tensors, without gaps. What this room reads of such a file it reads with this module and
`collodion.worker.registry.reading`, so that what was checked and what is used cannot differ.

1. Nothing is allocated by what the file claims before the claim was compared with the file's size.
2. Whatever is wrong is a ModelUnusable that names the file.
"""

import contextlib
import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, BinaryIO, NamedTuple

import msgspec

from collodion.worker.registry.errors import ModelUnusable

MAX_HEADER_BYTES = 100_000_000
"""As the safetensors library has it."""
MAX_TENSORS = 200_000
_MAX_DIMENSIONS = 8
_Count = Annotated[int, msgspec.Meta(ge=0)]
_MAX_QUOTE = 120

ITEM_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "F64": 8,
        "I64": 8,
        "U64": 8,
        "F32": 4,
        "I32": 4,
        "U32": 4,
        "F16": 2,
        "BF16": 2,
        "I16": 2,
        "U16": 2,
        "F8_E4M3": 1,
        "F8_E5M2": 1,
        "I8": 1,
        "U8": 1,
        "BOOL": 1,
    }
)
"""The dtypes that are read, and the bytes of one number."""


class Entry(NamedTuple):
    """One tensor: its dtype as the format spells it, its shape, and where its bytes begin and end in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A file's tensors by name, in the order of the header, and its metadata; `size_bytes` is the whole file's."""

    path: Path
    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]
    size_bytes: int

    @property
    def license(self) -> str:
        """What its metadata say of it; empty if they say nothing."""
        return self.metadata.get("modelspec.license", "")[:200]

    def amount(self, beginnings: tuple[str, ...] = ("",)) -> tuple[int, int]:
        """How many numbers the tensors hold whose names begin like this, and how many bytes they take."""
        ours = [entry for name, entry in self.tensors.items() if name.startswith(beginnings)]
        return sum(entry.numbers for entry in ours), sum(entry.end - entry.begin for entry in ours)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor; None if there is no such tensor."""
        entry = self.tensors.get(name)
        return None if entry is None else entry.shape


def read_header(path: Path) -> Header:
    """The header of the file. Raises ModelUnusable."""
    with opened(path) as file:
        return header_in(path, file)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file for reading. Raises ModelUnusable, also for an OSError within the context."""
    try:
        # A pipe that somebody calls x.safetensors would be waited for until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ModelUnusable(f"{path} is not a file")
            yield file
    except OSError as error:
        raise ModelUnusable(f"{path} cannot be read: {error.strerror or error}") from error


def header_in(path: Path, file: BinaryIO) -> Header:
    """The header of an opened file at whose beginning we are. Raises ModelUnusable."""
    size_bytes = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    _check_length(path, length, size_bytes)
    return parse_header(path, file.read(length), size_bytes)


def parse_header(path: Path, raw: bytes, file_bytes: int) -> Header:
    """The header from its JSON, for a file of so many bytes. Raises ModelUnusable; `path` is only for its words."""
    if len(raw) > file_bytes - 8:
        raise _damaged(path, f"its header of {len(raw)} bytes is longer than the file")
    metadata, described = _decoded(path, raw)
    if len(described) > MAX_TENSORS:
        raise _damaged(path, f"it claims to hold {len(described)} tensors")
    start = 8 + len(raw)
    tensors = {name: _entry(path, name, spec, start) for name, spec in described.items()}
    if any(raw.count(key) != len(tensors) for key in (b'"dtype"', b'"shape"', b'"data_offsets"')):
        _check_unique(path, raw)
    _check_places(path, tensors, start, file_bytes)
    return Header(path, MappingProxyType(tensors), MappingProxyType(metadata), file_bytes)


def _check_length(path: Path, length: int, file_bytes: int) -> None:
    if file_bytes < 8:
        raise ModelUnusable(f"{path} is no safetensors file: it has {file_bytes} bytes")
    if length > MAX_HEADER_BYTES or length > file_bytes - 8:
        why = f"its header would have {length} bytes, and the file has {file_bytes}"
        raise ModelUnusable(f"{path} is no safetensors file, or is not complete: {why}")


class _Spec(msgspec.Struct):
    """What the header says of a tensor."""

    dtype: str
    shape: tuple[_Count, ...]
    data_offsets: tuple[_Count, _Count]


def _decoded(path: Path, raw: bytes) -> tuple[dict[str, str], dict[str, _Spec]]:
    """The metadata, and what is said of the tensors."""
    try:
        said = msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, f"its header is not a JSON object ({error})") from error
    metadata = said.pop("__metadata__", {})
    try:
        return msgspec.convert(metadata, dict[str, str]), msgspec.convert(said, dict[str, _Spec])
    except msgspec.ValidationError as error:
        raise _first_wrong(path, said) from error


def _first_wrong(path: Path, said: Mapping[str, Any]) -> ModelUnusable:
    for name, spec in said.items():
        try:
            msgspec.convert(spec, _Spec)
        except msgspec.ValidationError as error:
            return _damaged(path, f"its header does not describe tensor {_quoted(name)} as it should ({error})")
    return _damaged(path, "its __metadata__ is not an object of strings")


def _check_unique(path: Path, raw: bytes) -> None:
    """Slow, so only where the count of the keys leaves a doubt."""
    import json

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise _damaged(path, f"its header says {_quoted(key)} twice")
            found[key] = value
        return found

    try:
        json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON ({error})") from error


def _entry(path: Path, name: str, spec: _Spec, start: int) -> Entry:
    shape, (begin, end) = spec.shape, spec.data_offsets
    item = ITEM_BYTES.get(spec.dtype)
    if item is None:
        raise ModelUnusable(
            f"{path}: tensor {_quoted(name)} is stored as {_quoted(spec.dtype)}, which is not supported"
        )
    if len(shape) > _MAX_DIMENSIONS:
        raise _damaged(path, f"tensor {_quoted(name)} has {len(shape)} dimensions")
    if end - begin != math.prod(shape) * item:
        what = f"tensor {_quoted(name)} of shape {list(shape)} and dtype {spec.dtype}"
        raise _damaged(path, f"{what} does not take {end - begin} bytes")
    return Entry(spec.dtype, shape, start + begin, start + end)


def _check_places(path: Path, tensors: Mapping[str, Entry], start: int, file_bytes: int) -> None:
    """In the file, one behind the other, none over another."""
    places = [(entry.begin, entry.end, name) for name, entry in tensors.items()]
    places.sort()
    place = start
    for begin, end, name in places:
        if begin != place:
            raise _damaged(path, f"tensor {_quoted(name)} lies over another one, or behind a gap")
        place = end
    if place > file_bytes:
        raise ModelUnusable(f"{path} is not complete: {place} bytes are described, and the file has {file_bytes}")
    if place < file_bytes:
        raise _damaged(path, f"{file_bytes - place} bytes at its end belong to no tensor")


def _damaged(path: Path, why: str) -> ModelUnusable:
    return ModelUnusable(f"{path} is damaged: {why}")


def _quoted(what: object) -> str:
    text = repr(what)
    return text if len(text) <= _MAX_QUOTE else text[:_MAX_QUOTE] + "…"
