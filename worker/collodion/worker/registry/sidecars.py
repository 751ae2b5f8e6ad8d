"""What a user says of a model in a file of their own: `collodion.json` in a folder, `NAME.collodion.json` beside `NAME.safetensors`.

(Not `NAME.json`: A1111's web UI keeps descriptions there.) Unknown keys are errors, so that a typing mistake does not pass unseen.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collodion.worker.registry.documents import json_object
from collodion.worker.registry.errors import ModelUnusable

_OF_FILES = frozenset({"prediction_type", "timestep_spacing", "config"})
PREDICTIONS = ("epsilon", "v_prediction")
_SPACINGS = ("leading", "trailing", "linspace")
_CHOICES = {"prediction_type": PREDICTIONS, "timestep_spacing": _SPACINGS}

KEYS: Mapping[str, type | tuple[type, ...]] = {
    "default_steps": int,
    "default_sampler": str,
    "default_guidance_scale": (int, float),
    "license": str,
    "vae": str,
    "prediction_type": str,
    "timestep_spacing": str,
    "config": str,
}
"""Every key, and the type of its value.

vae: the name of a VAE in the registry, used instead of the model's own. For single files only: prediction_type, epsilon or v_prediction;
timestep_spacing, leading, trailing or linspace (distilled models want trailing);
config, a diffusers folder (relative to this file) whose configurations and tokenizers fit the file, for architectures that we do not know.
"""


def read_sidecar(path: Path, *, of_folder: bool = False) -> dict[str, Any]:
    """What the file says; nothing if there is none. Raises ModelUnusable."""
    if not path.is_file():
        return {}
    said = json_object(path)
    for key, value in said.items():
        known = KEYS.get(key)
        if known is None:
            raise ModelUnusable(f"{path}: there is no setting {key[:100]!r}; there are: {', '.join(KEYS)}")
        if of_folder and key in _OF_FILES:
            raise ModelUnusable(f"{path}: {key} is for single files; a folder says it in its own configurations")
        if not isinstance(value, known) or isinstance(value, bool):
            raise ModelUnusable(f"{path}: {key} = {str(value)[:100]!r} is not understood")
    for key, choices in _CHOICES.items():
        if key in said and said[key] not in choices:
            raise ModelUnusable(f"{path}: {key} = {said[key][:100]!r} is none of {', '.join(choices)}")
    return said


def sidecar_of(path: Path) -> Path:
    """The user's own file beside a single file."""
    return path.with_suffix(".collodion.json")
