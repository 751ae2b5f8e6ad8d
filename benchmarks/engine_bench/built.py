"""Models without weights on the disk: their configurations in a folder, their numbers drawn on the device.

Random, but such that nothing overflows and rounding does not grow: a product's output is as large as its input, norms scale by one, and
nothing is added. The same name draws the same numbers in whatever precision, so that columns can be compared with float32.
"""

import json
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from collodion.worker.memory_errors import memory_errors
from collodion.worker.registry import ModelSource, Part, SourceKind, configs_of
from collodion.worker.registry.modules import assign, build, class_of
from collodion.worker.registry.vocabulary import clip_tokenizer
from engine_bench.recipes import Recipe

_CONFIG_FILES = {"Scheduler": "scheduler_config.json", "Tokenizer": "tokenizer_config.json"}
_LETTERS = "▁,.'-abcdefghijklmnopqrstuvwxyz0123456789"


def write_configs(recipe: Recipe, folder: Path, name: str) -> ModelSource:
    """A diffusers folder without weights, as the registry would have read it with them."""
    index = {part: [library, kind] for part, (library, kind) in recipe.parts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": recipe.pipeline, **recipe.options, **index}))
    parts = []
    for part, (library, kind) in sorted(recipe.parts.items()):
        (folder / part).mkdir(exist_ok=True)
        (folder / part / _config_file(kind)).write_text(json.dumps(recipe.configs[part]))
        parts.append(Part(part, library, kind, folder / part))
    return ModelSource(name, SourceKind.FOLDER, folder, recipe.pipeline, tuple(parts), size_bytes=0, dtype="float32")


def random_parts(
    source: ModelSource,
    dtype: torch.dtype,
    place: torch.device,
    shared: Any = None,  # noqa: ARG001 - as load_parts has it; what is drawn is nobody else's
    progress: Callable[[float], None] = lambda _: None,
    dtypes: Mapping[str, torch.dtype] = MappingProxyType({}),
) -> dict[str, Any]:
    """See `collodion.worker.registry.loading.load_parts`; the weights are drawn. Raises MemoryError."""
    configs = configs_of(source)
    parts: dict[str, Any] = {}
    for number, part in enumerate(source.parts, start=1):
        parts[part.name] = _part(part, dict(configs[part.name]), dtypes.get(part.name, dtype), place)
        progress(number / len(source.parts))
    return parts


def _part(part: Part, config: dict[str, Any], dtype: torch.dtype, place: torch.device) -> Any:
    kind = class_of(part)
    if issubclass(kind, torch.nn.Module):
        with memory_errors():
            return _filled(part, build(part, config, dtype), place)
    if hasattr(kind, "from_config"):
        return kind.from_config(config)
    if part.class_name.startswith("T5"):
        return _t5_tokenizer(config["model_max_length"])
    return clip_tokenizer(pad_token=config["pad_token"], model_max_length=config["model_max_length"])


def _filled(part: Part, module: Any, place: torch.device) -> Any:
    """Parameters are drawn; what a module computed for itself when it was built, such as positions, it keeps."""
    tensors = {
        name: _drawn(f"{part.name}.{name}", empty, place) if empty.is_meta else empty
        for name, empty in module.state_dict().items()
    }
    assign(part, module, tensors)
    if part.library == "transformers":
        module.tie_weights()
    return module.to(place)


def _drawn(name: str, empty: torch.Tensor, place: torch.device) -> torch.Tensor:
    """float32 draws of a standard deviation of 1/sqrt(inputs), rounded to the tensor's own dtype."""
    if empty.dim() < 2:
        fill = torch.ones if name.endswith("weight") else torch.zeros
        return fill(empty.shape, dtype=empty.dtype, device=place)
    generator = torch.Generator(place).manual_seed(zlib.crc32(name.encode()))
    scale = 1 / math.sqrt(math.prod(empty.shape[1:]))
    if name.endswith("SelfAttention.q.weight"):
        scale /= 8  # T5 does not divide its scores: its authors draw these so much smaller (64 numbers a head)
    drawn = torch.empty(empty.shape, dtype=torch.float32, device=place).normal_(std=scale, generator=generator)
    return drawn.to(empty.dtype)


def _config_file(kind: str) -> str:
    return next((file for ending, file in _CONFIG_FILES.items() if ending in kind), "config.json")


def _t5_tokenizer(model_max_length: int) -> Any:
    """Letters only: nobody ships T5's vocabulary. What a prompt costs does not depend on it: it is padded to its full length."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *((letter, -9.0) for letter in _LETTERS)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=model_max_length)
