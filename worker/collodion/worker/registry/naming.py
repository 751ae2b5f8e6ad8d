"""How what lies in a models directory is called in requests, on command lines and in prompts.

1. A file is called by its name without its suffix, a folder by its name, a snapshot of a Hugging Face cache `org/name`.
   A file whose name says nothing (`model`, `pytorch_lora_weights`, …) is called as its folder is.
2. Whitespace within a name is kept as it is; what would end a name in a prompt or a list (`, = : < > | " \\`, control characters), and a
   dash at its beginning, becomes `_`. Names are in Unicode's NFC, and at most 200 characters long.
3. If two would have one name, each is called by its path below the models directory: without its suffix, if that tells them apart.
   Models, adapters (LoRAs and embeddings together) and VAEs have names of their own.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from collodion.worker.registry.sources import Refusal

LONGEST = 200
_SPEAKS_NOT = frozenset({"model", "pytorch_lora_weights", "diffusion_pytorch_model", "learned_embeds", "adapter_model"})
_UNUSABLE = re.compile(r'[,=:<>|"\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
_CACHE = re.compile(r"models--(.+?)--(.+)")


class Found(NamedTuple):
    """Something to be named. below: its path below the models directory; suffixed: whether its last suffix is no part of the name."""

    path: Path
    below: Path
    suffixed: bool


def named(found: Iterable[Found]) -> tuple[dict[str, Found], list[Refusal]]:
    """All by their names, and what cannot be named apart from others."""
    left, names = list(found), dict[str, Found]()
    for rule in (_short, _without_suffix, _whole):
        again: list[Found] = []
        for name, same in _groups(left, rule):
            if len(same) == 1 and name not in names and name:
                names[name] = same[0]
            else:
                again += same
        left = again
    return names, [Refusal(each.path, f"{each.path} has no name of its own: rename it") for each in left]


def _groups(found: Sequence[Found], rule: Callable[[Found], str]) -> Iterator[tuple[str, list[Found]]]:
    groups: dict[str, list[Found]] = defaultdict(list)
    for each in found:
        groups[_usable(rule(each))].append(each)
    yield from groups.items()


def _short(found: Found) -> str:
    name = found.below.stem if found.suffixed else found.below.name
    if found.suffixed and name in _SPEAKS_NOT and found.below.parent.name:
        return _of_folder(found.below.parent)
    return name if found.suffixed else _of_folder(found.below)


def _of_folder(folder: Path) -> str:
    for part in folder.parts:
        if cached := _CACHE.fullmatch(part):
            return f"{cached[1]}/{cached[2]}"
    return folder.name


def _without_suffix(found: Found) -> str:
    return found.below.with_suffix("").as_posix() if found.suffixed else found.below.as_posix()


def _whole(found: Found) -> str:
    return found.below.as_posix()


def _usable(name: str) -> str:
    name = _UNUSABLE.sub("_", unicodedata.normalize("NFC", name)).strip()
    name = re.sub(r"^-", "_", name)
    return name if len(name) <= LONGEST else ""
