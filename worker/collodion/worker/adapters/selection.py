"""Which adapters each row of a model call has: chosen once for a composition of a batch, applied in every call of it.

Everything a module needs to know is worked out here: page numbers and weights for each segment, on the device. Between two calls
the banks may have moved or dropped what a selection names; then it is worked out again when it is applied.
"""

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import NamedTuple, Protocol, TypeAlias

import torch

from collodion.worker.adapters.changes import Change
from collodion.worker.adapters.loaded import Use
from collodion.worker.adapters.merging import Merge, Whole
from collodion.worker.adapters.pool import PAGE
from collodion.worker.adapters.products import Gathered, OfSome, Product, Shared
from collodion.worker.adapters.reading import SiteChange
from collodion.worker.adapters.sites import Segment, Site
from collodion.worker.registry.sources import WeightFile

Row: TypeAlias = Sequence[Use]
"""The adapters of one row: none, one or several."""
_FEW = 0.75  # of the rows; looking at those alone costs copies of what they read and wrote


class Resident(Protocol):
    """What of an adapter is on the device, for one component.

    pages: their numbers in each segment. products: sites that it changes by products. wholes: what it changes otherwise.
    """

    @property
    def pages(self) -> Mapping[Segment, Sequence[int]]: ...  # noqa: D102 - see the class

    @property
    def products(self) -> Collection[Site]: ...  # noqa: D102

    @property
    def wholes(self) -> Mapping[Site, SiteChange]: ...  # noqa: D102


class Selection:
    """The rows of one component's calls; see `Bank.select`. `epoch` is the banks' when `changes` was worked out, `settled`: it stays so."""

    def __init__(self, component: str, rows: Sequence[Row], size: int, ranks: int, every_row: bool) -> None:
        self.component = component
        own = [[use for use in row if use.scale and component in use.adapter.components] for row in rows]
        self.rows: list[list[Use]] = own + [[] for _ in range(size - len(rows))]
        self.filled = len(rows)
        self.ranks = ranks
        self.every_row = every_row or ranks > 0
        self.epoch = -1
        self.settled = False
        self.changes: list[tuple[Site, Change]] = []
        self.products: dict[Segment, Product] = {}

    @property
    def uses(self) -> list[Use]:
        """All, in the order of the rows, each adapter once."""
        return list({use.adapter.key: use for row in self.rows for use in row}.values())

    @property
    def merges(self) -> bool:
        """Whether some of it is no low-rank product. Then it is not what was compiled or captured, whatever `ranks`."""
        return any(change.merges for _, change in self.changes)

    def work_out(self, residents: Mapping[WeightFile, Resident], read: Collection[Site], epoch: int) -> None:
        """Fills in `changes`. residents: by the adapter's key, all of them. read: the sites that have a product with `ranks`."""
        touched: dict[Site, None] = {}
        for use in self.uses if not self.ranks else ():
            touched.update(dict.fromkeys(residents[use.adapter.key].products))
        sites = read if self.ranks else touched
        self.products = {}
        for segment, site in {site.segment: site for site in sites}.items():
            product = self._product([_row_of(row, segment, residents) for row in self.rows], site)
            self.products[segment] = product
        alone = {segment: Change(product) for segment, product in self.products.items()}
        changes = {site: alone[site.segment] for site in sites}
        for site, merged in self._merges(residents).items():
            changes[site] = Change(self.products.get(site.segment) if site in sites else None, merged)
        self.changes = list(changes.items())
        self.epoch = epoch

    def tensors(self) -> dict[str, torch.Tensor] | None:
        """By name, what of it differs between batches of the same shape; None if more does, or it was chosen without `ranks`."""
        named: dict[str, torch.Tensor] = {}
        if self.merges:
            return None
        for segment, product in self.products.items():
            if not isinstance(product, Gathered):
                return None
            named |= {f"{segment}.pages": product.pages, f"{segment}.weights": product.weights}
        return named

    def bound(self, tensors: Mapping[str, torch.Tensor]) -> "Selection":
        """The same, reading its numbers from these, as `tensors` names them, and not worked out again: a CUDA graph has its own.

        It keeps no adapter: whoever holds it does not hold those of the batch that it was made for.
        """
        bound = copy(self)
        bound.settled, bound.rows = True, []
        bound.products = {
            segment: replace(product, pages=tensors[f"{segment}.pages"], weights=tensors[f"{segment}.weights"])
            for segment, product in self.products.items()
            if isinstance(product, Gathered)
        }
        changes = {segment: Change(product) for segment, product in bound.products.items()}
        bound.changes = [(site, changes[site.segment]) for site, _ in self.changes]
        return bound

    def _product(self, rows: Sequence["_Row"], site: Site) -> Product:
        """Of the segment of this site."""
        having = [place for place, row in enumerate(rows) if row.pages]
        if not self.every_row:
            adjoining = having[-1] - having[0] == len(having) - 1
            if len(having) < self.filled if adjoining else len(having) <= _FEW * self.filled:
                own = _product([rows[place] for place in having], len(having), 0, site)
                return OfSome(len(rows), _whole_numbers(having, site), having[0] if adjoining else None, own)
        return _product(rows, self.filled, self.ranks, site)

    def _merges(self, residents: Mapping[WeightFile, Resident]) -> dict[Site, list[Merge]]:
        """Rows that have the same changed matrices are one group. The padding may have anything."""
        groups: dict[tuple[tuple[WeightFile, float], ...], list[int]] = {}
        for place, row in enumerate(self.rows[: self.filled]):
            groups.setdefault(tuple((use.adapter.key, use.scale) for use in row), []).append(place)
        found: dict[Site, list[Merge]] = {}
        for group, members in groups.items():
            by_site: dict[Site, list[Whole]] = {}
            for key, scale in group:
                for site, change in residents[key].wholes.items():
                    by_site.setdefault(site, []).append(Whole(change.delta, change.bias, scale))
            if by_site:
                everybody = len(members) == self.filled
                place_of = next(iter(by_site)).place
                places = None if everybody else torch.tensor(members, dtype=torch.int64).to(place_of)
                for site, wholes in by_site.items():
                    found.setdefault(site, []).append(Merge(len(self.rows), places, wholes))
        return found


class _Row(NamedTuple):
    """The pages of a row in one segment, and the strength of each rank."""

    pages: list[int]
    weights: list[float]


def _row_of(row: Row, segment: Segment, residents: Mapping[WeightFile, Resident]) -> _Row:
    each = [(residents[use.adapter.key].pages.get(segment, ()), use.scale) for use in row]
    pages = [page for numbers, _ in each for page in numbers]
    return _Row(pages, [scale for numbers, scale in each for _ in range(len(numbers) * PAGE)])


def _product(rows: Sequence[_Row], filled: int, ranks: int, site: Site) -> Gathered | Shared:
    """filled: so many rows count, the others are padding."""
    same = all(row.pages == rows[0].pages for row in rows[:filled])
    return _shared(rows, filled, site) if same and not ranks else _gathered(rows, ranks, site)


def _gathered(rows: Sequence[_Row], ranks: int, site: Site) -> Gathered:
    width = max(len(row.pages) for row in rows)
    if ranks:
        width = max(-(-ranks // PAGE), 1 << max(width - 1, 0).bit_length())
    numbers = [page for row in rows for page in row.pages + [0] * (width - len(row.pages))]
    weights = [row.weights + [0.0] * (width * PAGE - len(row.weights)) for row in rows]
    return Gathered(len(rows), width * PAGE, _whole_numbers(numbers, site), _weights(weights, site))


def _shared(rows: Sequence[_Row], filled: int, site: Site) -> Shared:
    (pages, weights), ranks = rows[0], len(rows[0].weights)
    alike = all(row.weights == weights for row in rows[:filled])
    one = alike and len(set(weights)) == 1
    by_row = weights if alike else [row.weights or [0.0] * ranks for row in rows]
    return Shared(
        rows=len(rows),
        ranks=ranks,
        pages=_whole_numbers(pages, site),
        first=pages[0] if pages == list(range(pages[0], pages[0] + len(pages))) else None,
        weights=None if one else _weights(by_row, site),
        scale=weights[0] if one else 1.0,
    )


def _whole_numbers(numbers: list[int], site: Site) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64).to(site.place, non_blocking=True)


def _weights(weights: Sequence[object], site: Site) -> torch.Tensor:
    """In the dtype of most of the segment's modules, so that these need not make another of it in each call."""
    return torch.tensor(weights, dtype=torch.float32).to(site.place, site.dtype, non_blocking=True)
