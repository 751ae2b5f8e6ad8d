"""Which adapters each row of a model call has: chosen once for a composition of a batch, applied in every call of it.

Everything a module needs to know is worked out here: page numbers and weights for each segment, on the device. Between two calls
the banks may have moved or dropped what a selection names; then it is worked out again when it is applied.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, TypeAlias

import torch

from collodion.worker.adapters.changes import Change
from collodion.worker.adapters.loaded import FileKey, Use
from collodion.worker.adapters.merging import Merge, Whole
from collodion.worker.adapters.pool import PAGE
from collodion.worker.adapters.products import Product
from collodion.worker.adapters.reading import SiteChange
from collodion.worker.adapters.sites import Segment, Site

Row: TypeAlias = Sequence[Use]
"""The adapters of one row: none, one or several."""


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
    """The rows of one component's calls; see `Bank.select`. `epoch` is the banks' when `changes` was worked out."""

    def __init__(self, component: str, rows: Sequence[Row], size: int, ranks: int) -> None:
        self.component = component
        own = [[use for use in row if use.scale and component in use.adapter.components] for row in rows]
        self.rows: list[list[Use]] = own + [[] for _ in range(size - len(rows))]
        self.filled = len(rows)
        self.ranks = ranks
        self.epoch = -1
        self.changes: list[tuple[Site, Change]] = []

    @property
    def uses(self) -> list[Use]:
        """All, in the order of the rows, each adapter once."""
        return list({use.adapter.key: use for row in self.rows for use in row}.values())

    def work_out(self, residents: Mapping[FileKey, Resident], epoch: int) -> None:
        """Fills in `changes`. residents: by the adapter's key, all of them."""
        products = {segment: self._product(segment, residents) for segment in Segment}
        merges = self._merges(residents)
        alone = {segment: Change(product) for segment, product in products.items() if product is not None}
        changes = {site: alone[site.segment] for use in self.uses for site in residents[use.adapter.key].products}
        for site, merged in merges.items():
            product = products[site.segment] if site.pool.pages else None
            changes[site] = Change(product, merged)
        self.changes = list(changes.items())
        self.epoch = epoch

    def _product(self, segment: Segment, residents: Mapping[FileKey, Resident]) -> "Product | None":
        pages: list[list[int]] = []
        weights: list[list[float]] = []
        for row in self.rows:
            each = [(residents[use.adapter.key].pages.get(segment, ()), use.scale) for use in row]
            pages.append([page for numbers, _ in each for page in numbers])
            weights.append([scale for numbers, scale in each for _ in range(len(numbers) * PAGE)])
        if not any(pages):
            return None
        return _product(self, segment, pages, weights, residents)

    def _merges(self, residents: Mapping[FileKey, Resident]) -> dict[Site, list[Merge]]:
        """Rows that have the same changed matrices are one group. The padding may have anything."""
        groups: dict[tuple[tuple[FileKey, float], ...], list[int]] = {}
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


def _product(
    selection: Selection,
    segment: Segment,
    pages: list[list[int]],
    weights: list[list[float]],
    residents: Mapping[FileKey, Resident],
) -> Product:
    site = next(
        site for use in selection.uses for site in residents[use.adapter.key].products if site.segment is segment
    )
    same = all(row == pages[0] for row in pages[: selection.filled])
    if same and not selection.ranks:
        pages, weights = pages[:1], _one_if_alike(weights, selection.filled)
    width = max(map(len, pages))
    if selection.ranks:
        width = max(-(-selection.ranks // PAGE), 1 << (width - 1).bit_length())
    numbers = [page for row in pages for page in row + [0] * (width - len(row))]
    strengths = [row + [0.0] * (width * PAGE - len(row)) for row in weights]
    weight = torch.tensor(strengths, dtype=torch.float32).to(site.dtype)
    return Product(
        rows=len(selection.rows),
        ranks=width * PAGE,
        pages=torch.tensor(numbers, dtype=torch.int64).to(site.place, non_blocking=True),
        weights=(weight[0] if len(weight) == 1 else weight).to(site.place, non_blocking=True),
        shared=same and not selection.ranks,
    )


def _one_if_alike(weights: list[list[float]], filled: int) -> list[list[float]]:
    alike = all(row == weights[0] for row in weights[:filled])
    return weights[:1] if alike else [row or [0.0] * len(weights[0]) for row in weights]
