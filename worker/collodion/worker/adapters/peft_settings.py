"""What peft says beside the tensors of how strong they are: diffusers writes it into a file's metadata, peft into a file beside it.

Without it a product of peft's counts once, as diffusers has it.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.registry.headers import Header

_METADATA = "lora_adapter_metadata"
_FILE, _BESIDE = "adapter_model.safetensors", "adapter_config.json"
_LONGEST = 1 << 20  # bytes of settings that are believed to be settings


@dataclass(frozen=True)
class PeftSettings:
    """By component, peft's LoraConfig as a dictionary; the component "" stands for all."""

    by_component: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, header: Header) -> "PeftSettings | None":
        """Those of a file; None if there are none. Raises ModelUnusable."""
        raw, where = header.metadata.get(_METADATA), str(header.path)
        beside = header.path.parent / _BESIDE
        if raw is None and header.path.name == _FILE and beside.is_file():
            raw, where = _text_of(beside), str(beside)
        if raw is None:
            return None
        try:
            said = json.loads(raw) if len(raw) <= _LONGEST else None
        except (ValueError, RecursionError) as error:
            raise ModelUnusable(f"{where} has settings of peft that are not JSON: {error}") from error
        if not isinstance(said, dict):
            raise ModelUnusable(f"{where} has settings of peft that are no JSON object")
        return cls(_check(_by_component(said), where))

    def scale(self, component: str, path: str, rank: int) -> float | None:
        """How often the product of this module counts; None if nothing is said of it."""
        said = self.by_component.get(component) or self.by_component.get("")
        if said is None or "lora_alpha" not in said or rank < 1:
            return None
        alpha = float(_of_module(said.get("alpha_pattern"), path, said["lora_alpha"]))
        return alpha / (math.sqrt(rank) if said.get("use_rslora") else rank)


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST + 1).decode("utf-8", "replace")
    except OSError as error:
        raise ModelUnusable(f"{path} cannot be read: {error.strerror or error}") from error


def _by_component(said: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """diffusers puts the component before each name: `unet.lora_alpha`."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in said.items():
        component, _, name = key.rpartition(".")
        found.setdefault(component, {})[name] = value
    return found


def _check(by_component: dict[str, dict[str, Any]], where: str) -> dict[str, dict[str, Any]]:
    for said in by_component.values():
        if said.get("use_dora"):
            raise ModelUnusable(f"{where} holds DoRA, which is not supported")
        patterns = said.get("alpha_pattern") or {}
        alphas = [said.get("lora_alpha", 1), *(patterns.values() if isinstance(patterns, dict) else [None])]
        if not all(isinstance(alpha, int | float) and math.isfinite(alpha) for alpha in alphas):
            raise ModelUnusable(f"{where} has settings of peft whose alphas are no numbers")
    return by_component


def _of_module(patterns: Any, path: str, otherwise: Any) -> Any:
    """The value whose key is the end of the module's path, as peft looks it up (taken literally: its keys are paths)."""
    for key, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?{re.escape(key.lstrip('^'))}", path):
            return value
    return otherwise
