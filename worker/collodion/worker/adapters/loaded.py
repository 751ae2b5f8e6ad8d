"""An adapter in host memory, made ready for the device: off the device thread, so that bringing it there is a copy and nothing else.

Low-rank products lie in pages (`pool.py`) in one block of memory for each component and dtype, pinned if the device is a GPU.
Strength (alpha / rank) is divided between the two factors, so that neither leaves the range of float16.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from weakref import WeakSet

import torch

from collodion.wire.jobs import AdapterKind
from collodion.worker.adapters.deltas import Difference, LowRank, all_finite
from collodion.worker.adapters.pool import PAGE
from collodion.worker.adapters.reading import Contents, SiteChange
from collodion.worker.adapters.sites import Segment, Site
from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.registry.sources import WeightFile


class Placed(NamedTuple):
    """A site's product in its block: `ranks` (a multiple of PAGE) rows of `down` from `begin` on, then as many of `up`."""

    begin: int
    ranks: int

    def views(self, block: torch.Tensor, site: Site) -> tuple[torch.Tensor, torch.Tensor]:
        """down (ranks, in) and up (ranks, out)."""
        width_in, width_out = site.pool.widths
        middle = self.begin + self.ranks * width_in
        end = middle + self.ranks * width_out
        return block[self.begin : middle].view(self.ranks, width_in), block[middle:end].view(self.ranks, width_out)


@dataclass(frozen=True, eq=False)
class ComponentChanges:
    """What an adapter changes of one component. products: by dtype of the sites. pages: how many it takes in each segment."""

    blocks: Mapping[torch.dtype, torch.Tensor]
    products: Mapping[Site, Placed]
    wholes: Mapping[Site, SiteChange]
    pages: Mapping[Segment, int]

    @property
    def nbytes(self) -> int:
        """Of its tensors, which is also what the wholes take on the device."""
        return sum(block.nbytes for block in self.blocks.values()) + self.whole_bytes

    @property
    def whole_bytes(self) -> int:
        """Of the changes that are no products."""
        return sum(tensor.nbytes for change in self.wholes.values() for tensor in _tensors(change))


@dataclass(frozen=True, eq=False)
class LoadedAdapter:
    """An adapter of a model. notes: what of its file is not used, and why that is no loss. Ask for it to be applied with `at`."""

    key: WeightFile
    kind: AdapterKind
    notes: tuple[str, ...]
    components: Mapping[str, ComponentChanges]
    _uses: "WeakSet[Use]" = field(default_factory=WeakSet, repr=False)

    def at(self, scale: float) -> "Use":
        """This adapter, so strong. Raises ValueError if the scale is not finite."""
        if not math.isfinite(scale):
            raise ValueError(f"an adapter's scale is {scale}")
        use = Use(self, scale)
        self._uses.add(use)
        return use

    @property
    def held(self) -> bool:
        """Whether somebody keeps a `Use` of it."""
        return bool(self._uses)

    @property
    def nbytes(self) -> int:
        """Host memory."""
        return sum(changes.nbytes for changes in self.components.values())


@dataclass(frozen=True, eq=False)
class Use:
    """An adapter and how strong it is, for one latent or prompt.

    Whoever keeps one keeps the adapter in host memory, and in the banks before those that nobody keeps: nothing has to be given back.
    """

    adapter: LoadedAdapter
    scale: float


def make_ready(key: WeightFile, contents: Contents) -> LoadedAdapter:
    """Raises ModelUnusable for numbers that the model's dtype cannot hold, MemoryError."""
    by_component: dict[str, dict[Site, SiteChange]] = defaultdict(dict)
    for site, change in contents.changes.items():
        by_component[site.component][site] = change
    components = {component: _component(key.path, changes) for component, changes in by_component.items()}
    return LoadedAdapter(key, contents.kind, tuple(contents.notes), components)


def _component(path: Path, changes: Mapping[Site, SiteChange]) -> ComponentChanges:
    products = {site: change.delta for site, change in changes.items() if _is_product(change)}
    wholes = {site: _kept(path, site, change) for site, change in changes.items() if not _is_product(change)}
    placed: dict[Site, Placed] = {}
    ends: dict[torch.dtype, int] = defaultdict(int)
    pages: dict[Segment, int] = {}
    for site, delta in products.items():
        assert isinstance(delta, LowRank)
        count = -(-delta.rank // PAGE)
        placed[site] = Placed(ends[site.dtype], count * PAGE)
        ends[site.dtype] += count * PAGE * sum(site.pool.widths)
        pages[site.segment] = max(pages.get(site.segment, 0), count)
    pinned = any(site.place.type == "cuda" for site in products)
    blocks = {dtype: torch.zeros(end, dtype=dtype, pin_memory=pinned) for dtype, end in ends.items()}
    for site, place in placed.items():
        _fill(path, site, products[site], *place.views(blocks[site.dtype], site))
    return ComponentChanges(blocks, placed, wholes, pages)


def _fill(path: Path, site: Site, delta: object, down: torch.Tensor, up: torch.Tensor) -> None:
    assert isinstance(delta, LowRank)
    half = 2.0 ** round(math.log2(abs(delta.scale)) / 2) if delta.scale else 1.0  # a power of two rounds nothing
    down[: delta.rank] = delta.down.flatten(1).float() * (delta.scale / half)
    up[: delta.rank] = delta.up.flatten(1).t().float() * half
    if not (all_finite(down) and all_finite(up)):
        raise ModelUnusable(f"{path} has numbers for {site.name} that {site.dtype} cannot hold")


def _is_product(change: SiteChange) -> bool:
    return isinstance(change.delta, LowRank) and change.bias is None


def _kept(path: Path, site: Site, change: SiteChange) -> SiteChange:
    """Factors stay in float32, being few; a whole difference is as big as the module itself and is kept in its dtype."""
    dtype = site.dtype if isinstance(change.delta, Difference) else torch.float32
    delta = change.delta and change.delta.moved(lambda tensor: tensor.to(dtype))
    kept = SiteChange(delta, None if change.bias is None else change.bias.float())
    if not all(map(all_finite, _tensors(kept))):
        raise ModelUnusable(f"{path} has numbers for {site.name} that {site.dtype} cannot hold")
    return kept


def _tensors(change: SiteChange) -> Iterator[torch.Tensor]:
    yield from () if change.delta is None else change.delta.tensors
    if change.bias is not None:
        yield change.bias
