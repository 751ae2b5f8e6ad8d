"""Safetensors files written by hand: right ones without their gigabytes, and wrong ones."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from collodion.worker.registry import Registry
from collodion.worker.registry.headers import ITEM_BYTES

SHAPES = Path(__file__).parents[3] / "worker" / "collodion" / "worker" / "shapes"
Shapes = Mapping[str, tuple[int, ...]]

LORA_SD1: Shapes = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 768),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": (320, 4),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.alpha": (),
}


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


def reasons(registry: Registry) -> dict[str, str]:
    """Why, by the name of the file."""
    return {refusal.path.name: refusal.reason for refusal in registry.refusals}


def shapes_in(folder: Path) -> Path:
    """A copy of the embedded model."""
    shutil.copytree(SHAPES, folder)
    return folder


def damaged(folder: Path, file: str, change: Callable[[dict[str, object]], object]) -> None:
    """A model's JSON file, changed."""
    path = folder / file
    said = json.loads(path.read_text())
    said = change(said) or said
    path.write_text(json.dumps(said))
