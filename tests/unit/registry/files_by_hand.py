"""Safetensors files written by hand: right ones without their gigabytes, and wrong ones."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collodion.worker.registry.headers import ITEM_BYTES

Shapes = Mapping[str, tuple[int, ...]]


def header_json(shapes: Shapes, dtype: str = "F16", metadata: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The header of a file of zeros."""
    said: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, shape in shapes.items():
        end = place + math.prod(shape) * ITEM_BYTES[dtype]
        said[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, end]}
        place = end
    return said


def write(path: Path, said: Any, data_bytes: int | None = None) -> Path:
    """A file with this header (bytes as they are, all else as JSON) and as many zeros as it asks for, which take no room."""
    raw = said if isinstance(said, bytes) else json.dumps(said).encode()
    if data_bytes is None:
        data_bytes = max((spec["data_offsets"][1] for name, spec in said.items() if name != "__metadata__"), default=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + data_bytes)
    return path


def zeros(path: Path, shapes: Shapes, dtype: str = "F16", metadata: Mapping[str, str] | None = None) -> Path:
    """A right file of zeros."""
    return write(path, header_json(shapes, dtype, metadata))
