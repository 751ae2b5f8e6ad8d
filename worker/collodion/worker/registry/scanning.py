"""Looks through a models directory, in whatever layout people have: flat, ComfyUI's, A1111's, a Hugging Face cache.

1. What a file is, its keys say, not its folder. A folder with a `model_index.json` is a model, one with a `config.json` a part.
2. Links are followed, each directory is looked at once, hidden ones never. Whatever cannot be used is a Refusal; nothing ends a scan.
3. What has not changed since the previous scan (its files, their sizes and times) is not opened again.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from collodion.worker.registry.documents import json_object
from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.registry.files import SUFFIXES, beside, read_file
from collodion.worker.registry.folders import INDEX, read_folder, read_vae_folder
from collodion.worker.registry.naming import Found, named
from collodion.worker.registry.sources import AdapterSource, ModelSource, Refusal, Registry, VaeSource

_DEEPEST = 12
_MOST_ENTRIES = 500_000
_NOT_OURS = frozenset({"__pycache__", "node_modules", "site-packages", "venv", "blobs", "refs"})

Outcome = ModelSource | AdapterSource | VaeSource | Refusal | None
"""What became of a candidate; it has no name yet. None: it is nothing that we read, and nothing that anybody expects us to."""

Signature = tuple[tuple[int, ...], ...]


class Seen(NamedTuple):
    """A candidate as it was when it was looked at, and what it was."""

    signature: Signature
    outcome: Outcome


@dataclass(frozen=True)
class _Candidate:
    path: Path
    below: Path
    is_folder: bool


def scan(directory: Path, previous: Registry | None = None, patience_s: float = math.inf) -> Registry:
    """Everything in this directory. `previous` is an earlier scan of the same one, which makes this one cheap.

    patience_s: after so long what was not looked at before is left to the next scan, so that thousands of adapters delay nobody.
    """
    ends = time.monotonic() + patience_s
    before: Mapping[Path, Seen] = previous.seen if previous is not None else {}
    seen: dict[Path, Seen] = {}
    found: dict[_Candidate, Outcome] = {}
    walk = _Walk(directory)
    for candidate in walk:
        if candidate.path not in before and time.monotonic() > ends:
            continue
        known = seen[candidate.path] = _seen(candidate, before.get(candidate.path))
        found[candidate] = known.outcome
    refusals = [*walk.refusals, *(outcome for outcome in found.values() if isinstance(outcome, Refusal))]
    vaes = _named(found, VaeSource, refusals)
    adapters = _named(found, AdapterSource, refusals)
    models = _with_vaes(_named(found, ModelSource, refusals), vaes, refusals)
    refusals.sort(key=lambda refusal: refusal.path)
    return Registry(directory, models, adapters, vaes, tuple(refusals), seen)


def read_model(path: Path, name: str, vaes: Mapping[str, VaeSource] = MappingProxyType({})) -> ModelSource:
    """The model in this folder or single file, under a name that is given; `vaes` are those that its sidecar may name.

    Raises:
        ModelUnusable: it cannot be used.
    """
    return _with_vae(replace(_alone(path.expanduser().absolute()), name=name), vaes)


def _alone(path: Path) -> ModelSource:
    if path.is_dir():
        if not (path / INDEX).is_file():
            raise ModelUnusable(f"{path} is not a diffusers folder: it has no {INDEX}")
        return read_folder(path, "")
    outcome = read_file(path)
    if isinstance(outcome, Refusal):
        raise ModelUnusable(outcome.reason)
    if not isinstance(outcome, ModelSource):
        raise ModelUnusable(f"{path} is not a model")
    return outcome


# ---------------------------------------------------------------------- the walk


class _Walk:
    """All candidates below a directory; `refusals` grows with what could not be walked through."""

    def __init__(self, directory: Path) -> None:
        self.refusals: list[Refusal] = []
        self._directory = directory
        self._visited: set[tuple[int, int]] = set()
        self._entries = 0

    def __iter__(self) -> Iterator[_Candidate]:
        yield from self._inside(self._directory, Path(), 0)
        # As A1111's web UI has them: beside its models.
        embeddings = self._directory.parent / "embeddings"
        if os.path.isdir(self._directory / "Stable-diffusion") and os.path.isdir(embeddings):  # noqa: PTH112  # never raises
            yield from self._inside(embeddings, Path("embeddings"), 1)

    def _inside(self, folder: Path, below: Path, depth: int) -> Iterator[_Candidate]:
        entries = self._listed(folder, depth)
        names = {entry.name for entry in entries}
        if INDEX in names or ("config.json" in names and _is_part(folder)):
            yield _Candidate(folder, below, is_folder=True)
            return
        if "snapshots" in names and folder.name.startswith("models--"):
            yield from self._snapshot(folder, below, depth)
            return
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _NOT_OURS:
                continue
            path = folder / entry.name
            if _is_directory(entry):
                yield from self._inside(path, below / entry.name, depth + 1)
            elif path.suffix.lower() in SUFFIXES:
                yield _Candidate(path, below / entry.name, is_folder=False)

    def _listed(self, folder: Path, depth: int) -> list["os.DirEntry[str]"]:
        """Its entries, by name; none if it was here before, or cannot be listed."""
        try:
            said = folder.stat()
            if (said.st_dev, said.st_ino) in self._visited:
                return []
            self._visited.add((said.st_dev, said.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            self.refusals.append(Refusal(folder, f"{folder} cannot be listed: {error.strerror or error}"))
            return []
        self._entries += len(entries)
        if depth > _DEEPEST or self._entries > _MOST_ENTRIES:
            why = f"{folder} is not looked at: it is too deep, or there are more than {_MOST_ENTRIES} files"
            self.refusals.append(Refusal(folder, why))
            return []
        return entries

    def _snapshot(self, folder: Path, below: Path, depth: int) -> Iterator[_Candidate]:
        """Of a repository in a Hugging Face cache: what `main` is, or else the newest."""
        revisions = [entry for entry in self._listed(folder / "snapshots", depth) if _is_directory(entry)]
        try:
            main = (folder / "refs" / "main").read_text().strip()
        except (OSError, ValueError):
            main = ""
        chosen = max(
            revisions, key=lambda each: (each.name == main, *_state(Path(each.path))[3:], each.name), default=None
        )
        if chosen is not None:
            yield from self._inside(Path(chosen.path), below / "snapshots" / chosen.name, depth + 2)


def _is_part(folder: Path) -> bool:
    """Whether its `config.json` is a model's; others leave one in a directory, too."""
    try:
        said = json_object(folder / "config.json")
    except ModelUnusable:
        return False
    return any(key in said for key in ("_class_name", "architectures", "model_type"))


def _is_directory(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


# ---------------------------------------------------------------------- one candidate


def _seen(candidate: _Candidate, before: Seen | None) -> Seen:
    try:
        signature = _signature(candidate)
    except OSError as error:
        return Seen((), Refusal(candidate.path, f"{candidate.path} cannot be read: {error.strerror or error}"))
    if before is not None and before.signature == signature:
        return before
    return Seen(signature, _looked_at(candidate))


def _looked_at(candidate: _Candidate) -> Outcome:
    path = candidate.path
    try:
        if not candidate.is_folder:
            return read_file(path)
        return read_folder(path, "") if (path / INDEX).is_file() else read_vae_folder(path, "")
    except ModelUnusable as error:
        return Refusal(path, error.reason)
    except OSError as error:
        return Refusal(path, f"{path} cannot be read: {error.strerror or error}")


def _signature(candidate: _Candidate) -> Signature:
    if not candidate.is_folder:
        return (_state(candidate.path), *(_state(path) for path in beside(candidate.path)))
    states: list[tuple[int, ...]] = []
    for folder in (candidate.path, *sorted(path for path in candidate.path.iterdir() if path.is_dir())):
        states += [_state(path) for path in sorted(folder.iterdir())]
    return tuple(states)


def _state(path: Path) -> tuple[int, ...]:
    try:
        said = path.stat()
    except OSError:
        return ()
    return said.st_dev, said.st_ino, said.st_size, said.st_mtime_ns


# ---------------------------------------------------------------------- all of them

_Named = TypeVar("_Named", ModelSource, AdapterSource, VaeSource)


def _named(found: Mapping[_Candidate, Outcome], kind: type[_Named], refusals: list[Refusal]) -> dict[str, _Named]:
    ours = {candidate.path: outcome for candidate, outcome in found.items() if isinstance(outcome, kind)}
    which = [Found(each.path, each.below, not each.is_folder) for each in found if each.path in ours]
    names, nameless = named(which)
    refusals += nameless
    return {name: replace(ours[each.path], name=name) for name, each in sorted(names.items())}


def _with_vaes(
    models: Mapping[str, ModelSource], vaes: Mapping[str, VaeSource], refusals: list[Refusal]
) -> dict[str, ModelSource]:
    """The models with the VAEs that their sidecars name."""
    whole: dict[str, ModelSource] = {}
    for name, model in models.items():
        try:
            whole[name] = _with_vae(model, vaes)
        except ModelUnusable as error:
            refusals.append(Refusal(model.path, error.reason))
    return whole


def _with_vae(model: ModelSource, vaes: Mapping[str, VaeSource]) -> ModelSource:
    """With the VAE that its sidecar names, or one beside it as A1111's web UI has it: NAME.vae.safetensors."""
    wanted = model.sidecar.get("vae")
    if wanted is None:
        own = model.path.with_suffix(".vae.safetensors")
        return replace(model, vae=next((vae for vae in vaes.values() if vae.path == own), None))
    if wanted not in vaes:
        raise ModelUnusable(f"{model.path} is to use VAE {wanted!r}; there are: {', '.join(vaes) or 'none'}")
    return replace(model, vae=vaes[wanted])
