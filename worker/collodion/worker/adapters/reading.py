"""From an adapter's file to changes of the model's modules.

1. Everything in the file is understood, or the file is not used: no key is passed over but those that change nothing (all zeros) and those
   for a part of the model that is not loaded, and these are noted.
2. What is read was checked: the header by `collodion.worker.registry.headers`, shapes against the model, numbers for being numbers.
   The file is read, not mapped into memory: one that shrinks meanwhile is an error and not the end of the process.
3. alpha, where there is one: a change counts alpha / rank times, as kohya, LyCORIS, peft and diffusers have it. Without one it counts
   as it is.

Runs on any thread.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch

from collodion.wire.jobs import AdapterKind
from collodion.worker.adapters.building import Built, build
from collodion.worker.adapters.deltas import (
    Delta,
    Difference,
    LowRank,
    Misshapen,
    Moved,
    Rows,
    Shape,
)
from collodion.worker.adapters.grammar import LOW_RANK_PARTS, Part, Spelled, refused, spelled
from collodion.worker.adapters.names import Names, Nowhere, Target
from collodion.worker.adapters.peft_settings import PeftSettings
from collodion.worker.adapters.sites import Site
from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.registry.headers import Header, header_in, opened
from collodion.worker.registry.reading import DTYPES, read_tensor
from collodion.worker.registry.recognising import EMBEDDING_KEYS


class SiteChange(NamedTuple):
    """What an adapter changes of one module. bias: (out,)."""

    delta: Delta | None
    bias: torch.Tensor | None

    def moved(self, move: Moved) -> "SiteChange":
        """The same with what `move` makes of each tensor."""
        return SiteChange(self.delta and self.delta.moved(move), None if self.bias is None else move(self.bias))


@dataclass
class Contents:
    """An adapter's file, understood. notes: what in it is not used, and why that is no loss, a sentence each."""

    changes: dict[Site, SiteChange] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> AdapterKind:
        """LOW_RANK if it is nothing but low-rank products."""
        plain = all(isinstance(change.delta, LowRank) and change.bias is None for change in self.changes.values())
        return AdapterKind.LOW_RANK if plain else AdapterKind.WHOLE


def read_adapter(path: Path, names: Names) -> Contents:
    """What the file changes of this model. Raises ModelUnusable."""
    with opened(path) as file:
        header = header_in(path, file)
        return _Reader(header, file, names).read(_modules(header))


def _modules(header: Header) -> dict[tuple[str, str], dict[Part, str]]:
    """The keys of each module, which is named by its prefix and its flat name."""
    path = header.path
    if header.tensors.keys() & EMBEDDING_KEYS:
        raise ModelUnusable(f"{path} is an embedding: name it in a prompt")
    if found := refused(header.tensors):
        key, what = found
        raise ModelUnusable(f"{path} holds {what}, which is not supported (first in {key!r})")
    modules: dict[tuple[str, str], dict[Part, str]] = {}
    for key in header.tensors:
        read = spelled(key)
        if read is None:
            raise ModelUnusable(f"{path} is no adapter that is known: {key[:200]!r} is not understood")
        parts = modules.setdefault((read.prefix, read.module), {})
        if read.part in parts:
            raise ModelUnusable(f"{path} says twice what {key!r} says: in {parts[read.part]!r}, too")
        parts[read.part] = key
    if not modules:
        raise ModelUnusable(f"{path} is empty")
    return modules


class _Reader:
    def __init__(self, header: Header, file: BinaryIO, names: Names) -> None:
        self._header = header
        self._file = file
        self._names = names
        self._settings = PeftSettings.of(header)
        self._contents = Contents()
        self._unused: dict[str, int] = {}

    def read(self, modules: Mapping[tuple[str, str], Mapping[Part, str]]) -> Contents:
        for (prefix, module), parts in modules.items():
            found = self._names.find(Spelled(prefix, module, Part.DOWN))
            if isinstance(found, Nowhere):
                self._pass_over(found, module, parts)
            else:
                self._take(parts, found)
        if not self._contents.changes:
            raise ModelUnusable(f"{self._header.path} changes nothing of this model: {self._reasons()}")
        self._contents.notes += [f"{count} modules are not used: {why}" for why, count in self._unused.items()]
        return self._contents

    def _take(self, parts: Mapping[Part, str], targets: Sequence[Target]) -> None:
        first = next(iter(parts.values()))
        try:
            built = build({part: self._tensor(key) for part, key in parts.items()}, self._scale(parts, targets))
            for target, change in zip(targets, _divided(built, targets), strict=True):
                _check_fit(target.site, change)
                self._add(target.site, change, first)
        except Misshapen as misshapen:
            raise ModelUnusable(f"{self._header.path} does not fit the model at {first!r}: {misshapen}") from misshapen

    def _add(self, site: Site, change: SiteChange, key: str) -> None:
        other = self._contents.changes.get(site)
        if other is None:
            self._contents.changes[site] = change
        elif not _alike(other, change):
            raise ModelUnusable(f"{self._header.path} changes {site.name} twice, the second time with {key!r}")

    def _scale(self, parts: Mapping[Part, str], targets: Sequence[Target]) -> float | None:
        """What peft's settings say of it; None if they say nothing. The file's own alpha is stronger."""
        if self._settings is None or Part.DOWN not in parts:
            return None
        site = targets[0].site
        return self._settings.scale(site.component, site.path, self._header.tensors[parts[Part.DOWN]].shape[0])

    def _pass_over(self, why: Nowhere, module: str, parts: Mapping[Part, str]) -> None:
        if why is Nowhere.NOT_LOADED:
            what = why.value
        elif module == "text_projection":  # FLUX and SD 1 have CLIP without it, and its trainers train it nevertheless
            what = "the text encoder has no projection"
        elif self._changes_nothing(parts):
            what = "they are all zeros"
        else:
            key = next(iter(parts.values()))
            raise ModelUnusable(f"{self._header.path} is not for this model: {key!r} is not understood ({why.value})")
        self._unused[what] = self._unused.get(what, 0) + 1

    def _changes_nothing(self, parts: Mapping[Part, str]) -> bool:
        telling = (Part.UP, Part.DIFF, Part.DIFF_BIAS, Part.UP_BIAS)
        if not any(part in parts for part in telling) or not parts.keys() <= LOW_RANK_PARTS | set(telling):
            return False
        return all(not self._tensor(parts[part]).any() for part in telling if part in parts)

    def _reasons(self) -> str:
        return "; ".join(self._unused) or "it holds no changes"

    def _tensor(self, key: str) -> torch.Tensor:
        """In the file's own dtype if that is one to compute in, else in float32."""
        entry = self._header.tensors[key]
        if entry.shape and not DTYPES[entry.dtype].is_floating_point:  # an alpha may be a whole number
            raise ModelUnusable(f"{self._header.path}: {key!r} is stored as {entry.dtype}, which is not supported")
        tensor = read_tensor(self._header, self._file, key)
        return tensor if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.float()


def _divided(built: Built, targets: Sequence[Target]) -> Iterator[SiteChange]:
    """Each target's own rows of a change."""
    whole = sum(target.site.shape[0] for target in targets)
    for found in (built.delta and built.delta.shape[:1], built.bias is not None and tuple(built.bias.shape)):
        if found and found != (whole,):
            raise Misshapen(f"it has {found[0]} rows, where the model has {whole}")
    for target in targets:
        delta, bias, ranges = built.delta, built.bias, target.rows
        if ranges is not None:
            if isinstance(delta, LowRank):
                delta = delta.rows(ranges)
            elif isinstance(delta, Difference):
                delta = Difference(torch.cat([delta.diff[first:end] for first, end in ranges]))
            elif delta is not None:
                delta = Rows(delta, ranges)
            bias = None if bias is None else torch.cat([bias[first:end] for first, end in ranges])
        yield SiteChange(delta, bias)


def _check_fit(site: Site, change: SiteChange) -> None:
    """Raises Misshapen. A convolution of one pixel and a linear layer are one thing, and LoHa's convolutions lie flat."""
    if change.bias is not None and tuple(change.bias.shape) != site.shape[:1]:
        raise Misshapen(f"{site.name} has {site.shape[0]} rows, and its bias {tuple(change.bias.shape)}")
    if change.delta is None:
        return
    shape = change.delta.shape
    if _pixels(shape) != _pixels(site.shape) and not (len(shape) == 2 and shape == _flattened(site.shape)):
        raise Misshapen(f"{site.name} has shape {site.shape}, and the change {shape}")


def _pixels(shape: Shape) -> Shape:
    return (*shape, 1, 1) if len(shape) == 2 else shape


def _flattened(shape: Shape) -> Shape:
    return (shape[0], int(torch.Size(shape[1:]).numel()))


def _alike(one: SiteChange, other: SiteChange) -> bool:
    """Whether a file says the same twice, under two names, as some do."""
    if one.bias is not None or other.bias is not None or one.delta is None or other.delta is None:
        return False
    if one.delta.shape != other.delta.shape:
        return False
    return torch.equal(one.delta.matrix().float(), other.delta.matrix().float())
