"""Small texts beside the weights: JSON objects, and what a model card says of its licence. Bounded, and nothing in them is run."""

import re
from pathlib import Path
from typing import Any

import msgspec

from collodion.worker.registry.errors import ModelUnusable

_MAX_BYTES = 16_000_000  # an index of shards of the largest models has a hundredth of it
_CARD_BYTES = 65_536
_WANTS_CODE = ("auto_map", "custom_pipeline", "trust_remote_code", "_custom_pipeline")
_LICENSE = re.compile(r"^license(?:_name)?\s*:\s*[\"']?([^\"'\n#]+)", re.MULTILINE)


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in this file, which wants no code of its own run. Raises ModelUnusable."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise ModelUnusable(f"{path} has more than {_MAX_BYTES} bytes")
        said = msgspec.json.decode(raw)
    except OSError as error:
        raise ModelUnusable(f"{path} cannot be read: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelUnusable(f"{path} is not JSON: {error}") from error
    if not isinstance(said, dict):
        raise ModelUnusable(f"{path} is not a JSON object")
    for key in _WANTS_CODE:
        if said.get(key):
            raise ModelUnusable(f"{path} wants code of its own ({key}), which is not run")
    return said


def license_of(folder: Path) -> str:
    """What the front matter of the README in this folder says; empty if it says nothing."""
    try:
        with (folder / "README.md").open("rb") as file:
            text = file.read(_CARD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    if not text.startswith("---"):
        return ""
    said = dict.fromkeys(match.strip() for match in _LICENSE.findall(text.split("\n---", 1)[0]))
    # "other" is followed by license_name, which says more.
    return next((name for name in said if name != "other"), next(iter(said), ""))
