"""Tensors out of safetensors files that were checked (`collodion.worker.registry.headers`).

Read, not mapped into memory: a mapped file that somebody cuts off, or downloads anew, kills the process that looks at it (SIGBUS), and
its pages may be away when a step needs them. What is not a number is found on the way, in the bits, without a copy.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.registry.headers import Header, header_in, opened
from collodion.worker.registry.sources import WeightFile

_CHUNK_BYTES = (
    2 << 20
)  # of a read: with 32 MiB, into memory that is new, other threads were held up for 0.1 s on a busy machine
DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# The least pattern of bits, without the sign, that is no finite number; and the unsigned and signed integers of that size.
_BEYOND: dict[torch.dtype, tuple[int, type, type]] = {
    torch.float64: (0x7FF0000000000000, np.uint64, np.int64),
    torch.float32: (0x7F800000, np.uint32, np.int32),
    torch.float16: (0x7C00, np.uint16, np.int16),
    torch.bfloat16: (0x7F80, np.uint16, np.int16),
    torch.float8_e5m2: (0x7C, np.uint8, np.int8),
    torch.float8_e4m3fn: (0x7F, np.uint8, np.int8),  # no infinity, one NaN
}

Advance = Callable[[int], None]
"""Told how many bytes more were read."""


@dataclass(frozen=True)
class Wish:
    """Which tensors are wanted, as which dtype. beginnings: of their names; kept: what in a name keeps its stored precision."""

    dtype: torch.dtype
    beginnings: tuple[str, ...] = ("",)
    kept: tuple[str, ...] = ()

    def wants(self, name: str) -> bool:
        """Whether this tensor is wanted."""
        return name.startswith(self.beginnings)

    def stored_as(self, name: str, own: torch.dtype) -> torch.dtype:
        """What a tensor of dtype `own` becomes."""
        keeps = not own.is_floating_point or any(part in name.split(".") for part in self.kept)
        return own if keeps and own not in (torch.float8_e4m3fn, torch.float8_e5m2) else self.dtype


def read_tensor(header: Header, stream: BinaryIO, name: str, advance: Advance = lambda _: None) -> torch.Tensor:
    """One tensor as it is stored, on the host; every number in it is one. Raises ModelUnusable."""
    entry = header.tensors[name]
    buffer = torch.empty(entry.end - entry.begin, dtype=torch.uint8)
    stream.seek(entry.begin)
    _fill(header, stream, buffer.numpy(), advance)
    tensor = buffer.view(DTYPES[entry.dtype]).reshape(entry.shape)
    if not finite(tensor):
        raise ModelUnusable(f"{header.path} is damaged: {name} holds NaN or infinity")
    return tensor


def read_tensors(files: Iterable[WeightFile], wish: Wish, advance: Advance) -> dict[str, torch.Tensor]:
    """The tensors that are wanted, on the host. Raises ModelUnusable."""
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        with opened(file.path) as stream:
            header = header_in(file.path, stream)
            _check_same(file, stream)
            for name in sorted(header.tensors, key=lambda name: header.tensors[name].begin):
                if wish.wants(name):
                    tensors[name] = _wanted(header.path, name, read_tensor(header, stream, name, advance), wish)
    return tensors


def finite(tensor: torch.Tensor) -> bool:
    """Whether every number of a tensor on the host is one. Exact: it reads the bits."""
    known = _BEYOND.get(tensor.dtype)
    if known is None or tensor.numel() == 0:
        return True
    beyond, unsigned, signed = known
    bits = tensor.contiguous().flatten().view(torch.uint8).numpy()
    # As a signed integer a positive one is at least `beyond`; as an unsigned one a negative one is, with its sign, at least that.
    sign = 1 << (8 * np.dtype(unsigned).itemsize - 1)
    return int(bits.view(signed).max()) < beyond and int(bits.view(unsigned).max()) < beyond + sign


def _wanted(path: Path, name: str, tensor: torch.Tensor, wish: Wish) -> torch.Tensor:
    wanted = wish.stored_as(name, tensor.dtype)
    if wanted == tensor.dtype:
        return tensor
    tensor = tensor.to(wanted)
    if not finite(tensor):
        short = str(wanted).removeprefix("torch.")
        raise ModelUnusable(f"{path}: {name} is beyond what {short} can say; run it in bfloat16 or float32")
    return tensor


def _fill(header: Header, stream: BinaryIO, buffer: Any, advance: Advance) -> None:
    whole, done = memoryview(buffer), 0
    while done < len(whole):
        got = stream.readinto(whole[done : done + _CHUNK_BYTES])  # type: ignore[attr-defined]  # it is a raw file
        if not got:
            raise ModelUnusable(f"{header.path} became shorter while it was read")
        done += got
        advance(got)


def _check_same(file: WeightFile, stream: BinaryIO) -> None:
    said = os.fstat(stream.fileno())
    if (said.st_size, said.st_mtime_ns) != (file.size_bytes, file.modified_ns):
        raise ModelUnusable(f"{file.path} changed since it was looked at; it is looked at again with the next scan")
