"""The adapters that are on the device, within a budget.

An adapter is resident by component: its text encoders' part goes when prompts are encoded, and stays or goes on its own. In each
segment that it changes it has pages, which are the same numbers in all open pools of the segment; a pool is open once an adapter
that is resident changes its module.

1. Room is made by dropping what was used least recently: first what nobody keeps a `Use` of, then what nobody needs in the batch at
   hand (a latent that waits brings its adapters back by a copy). If even that is not enough, MemoryError, and nothing has changed but that.
2. `allocated` never exceeds the budget. Pools grow in powers of two while the budget allows it, and exactly as needed then. Pages that
   were freed in one segment are moved to another by `_compact`.
3. `epoch` changes whenever a page has another meaning: selections are worked out again then. `moves` changes whenever a pool has another
   address: a CUDA graph that was captured before has to be captured again. Both before it happens: memory may end on the way.
4. Compiled code reads the pools of all modules that were fixed (`fix`); zeros stand in for those that are closed. All of a
   segment read the same few, which the budget does not know.

Device thread only, but for `fix`, before it. Work that was issued before runs before what is issued here, so nothing is overwritten
that is still read.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch

from collodion.worker.adapters.loaded import ComponentChanges, LoadedAdapter
from collodion.worker.adapters.pool import PAGE
from collodion.worker.adapters.reading import SiteChange
from collodion.worker.adapters.selection import Row, Selection
from collodion.worker.adapters.sites import Segment, Site
from collodion.worker.registry.sources import WeightFile

_FIRST = 1  # page 0 holds zeros
_LEAST = 2  # what compiled code reads, see `pool`


class Place(NamedTuple):
    """A segment of a component."""

    component: str
    segment: Segment


@dataclass(eq=False)
class Shelf:
    """The pages of one segment. room: pages that every open pool has; 0: none is open. readers: adapters of each open pool."""

    room: int = 0
    free: set[int] = field(default_factory=set)
    readers: dict[Site, int] = field(default_factory=dict)

    @property
    def page_bytes(self) -> int:
        """Of one page in all open pools."""
        return sum(site.pool.page_bytes for site in self.readers)

    @property
    def used(self) -> int:
        """Pages that are not free, the one with zeros among them."""
        return self.room - len(self.free)

    def next_pages(self, count: int) -> list[int]:
        """Which free pages so many ranks are to have: adjoining ones if there are, of which no copy has to be made to read them."""
        free = sorted(self.free)
        for first in range(len(free) - count + 1):
            if free[first + count - 1] - free[first] == count - 1:
                return free[first : first + count]
        return free[:count]


@dataclass(eq=False)
class _Resident:
    """See `collodion.worker.adapters.selection.Resident`."""

    pages: dict[Segment, list[int]]
    products: Collection[Site]
    wholes: Mapping[Site, SiteChange]
    whole_bytes: int


class Bank:
    """All adapters of one model that are on its device.

    held: whether somebody keeps a `Use` of the adapter with this key. every_row: see Adapters.
    """

    def __init__(self, budget_bytes: int, held: Callable[[WeightFile], bool], every_row: bool = True) -> None:
        self._every_row = every_row
        self.budget_bytes = budget_bytes
        self.epoch = 0
        self.moves = 0
        self._held = held
        self._shelves: dict[Place, Shelf] = {}
        self._residents: OrderedDict[tuple[str, WeightFile], _Resident] = OrderedDict()
        self._fixed: dict[Place, list[Site]] = {}

    @property
    def allocated(self) -> int:
        """Bytes of the device's memory."""
        pools = sum(shelf.room * shelf.page_bytes for shelf in self._shelves.values())
        return pools + sum(resident.whole_bytes for resident in self._residents.values())

    @property
    def resident(self) -> frozenset[tuple[str, WeightFile]]:
        """Which components of which adapters are on the device."""
        return frozenset(self._residents)

    def select(self, component: str, rows: Sequence[Row], size: int = 0, ranks: int = 0) -> Selection:
        """The adapters of the rows of this component's next calls, brought to the device.

        size: rows of a call at least; those behind `rows` are padding, whose output means nothing. ranks: gather so many for each row
        in every module whose pool is open, whoever is in the batch (the next power of two if they are too few), so that shapes stay
        the same: for compiled code and CUDA graphs. 0: as few as will do, and none by the row if all rows have the same. Raises
        MemoryError if the budget cannot hold what these rows need.
        """
        selection = Selection(component, rows, max(size, len(rows)), ranks, self._every_row)
        self.refresh(selection)
        return selection

    def refresh(self, selection: Selection) -> None:
        """Works the selection out again if that is needed. Raises MemoryError."""
        if selection.settled:
            return
        component, uses = selection.component, selection.uses
        if selection.epoch != self.epoch:
            with torch.inference_mode(False), torch.no_grad():  # tensors that can be written to in any mode
                self._ensure(component, [use.adapter for use in uses])
            residents = {use.adapter.key: self._residents[component, use.adapter.key] for use in uses}
            with torch.inference_mode(False), torch.no_grad():
                selection.work_out(residents, self._read(component), self.epoch)
        for use in uses:
            self._residents.move_to_end((component, use.adapter.key))

    def fix(self, sites: Iterable[Site]) -> None:
        """From now on every selection with `ranks` has a product for these, whether an adapter changes them or not."""
        for site in sites:
            self._fixed.setdefault(Place(site.component, site.segment), []).append(site)
        with torch.inference_mode(False), torch.no_grad():
            for place in self._fixed:
                self._stand_in(place)
        self._note_move()

    def fixed(self, component: str) -> Collection[Segment]:
        """The segments of the modules that were fixed."""
        return [place.segment for place in self._fixed if place.component == component]

    def _read(self, component: str) -> Collection[Site]:
        """What a selection with `ranks` has products for."""
        shelves = (shelf for place, shelf in self._shelves.items() if place.component == component)
        opened = dict.fromkeys(site for shelf in shelves for site in shelf.readers)
        fixed = (site for place, sites in self._fixed.items() if place.component == component for site in sites)
        return (opened | dict.fromkeys(fixed)).keys()

    def _note_move(self) -> None:
        self.epoch += 1
        self.moves += 1

    def _stand_in(self, place: Place, room: int = _LEAST) -> None:
        """Closed pools that compiled code reads have as many pages as the open ones, so that one list of numbers serves for all.

        room: that the open ones are going to have.
        """
        sites = self._fixed.get(place, ())
        room = max(self._shelves.get(place, Shelf()).room, room)
        size = room * PAGE * max((max(site.pool.widths) for site in sites), default=0)
        zeros: dict[torch.dtype, torch.Tensor] = {}
        for site in sites:
            if site.dtype not in zeros:
                zeros[site.dtype] = torch.zeros(size, dtype=site.dtype, device=site.place)
            site.pool.stand_in(zeros[site.dtype], room)

    def clear(self) -> None:
        """Gives back all memory."""
        for component, key in list(self._residents):
            self._drop(component, key)
        with torch.inference_mode(False), torch.no_grad():
            self._compact()

    def _ensure(self, component: str, adapters: Sequence[LoadedAdapter]) -> None:
        if _bytes_of([adapter.components[component] for adapter in adapters]) > self.budget_bytes:
            names = ", ".join(adapter.key.path.stem for adapter in adapters)
            raise MemoryError(f"{names} together do not fit into {self.budget_bytes / (1 << 20):.0f} MiB")
        needed = {(component, adapter.key): adapter for adapter in adapters}
        for (_, key), adapter in needed.items():
            if (component, key) not in self._residents:
                self._admit(component, adapter, needed.keys())

    def _admit(self, component: str, adapter: LoadedAdapter, needed: Collection[tuple[str, WeightFile]]) -> None:
        changes = adapter.components[component]
        while self._least(component, changes) > self.budget_bytes:
            self._drop(*self._victim(needed))
        room = {segment: self._room(component, segment, count) for segment, count in changes.pages.items()}
        if self._after(component, changes, room) > self.budget_bytes:
            self._compact()
            room = {segment: self._room(component, segment, count) for segment, count in changes.pages.items()}
        for segment, pages in self._generous(component, changes, room).items():
            self._open(Place(component, segment), pages, [site for site in changes.products if site.segment is segment])
        self._upload(component, adapter.key, changes)

    def _least(self, component: str, changes: ComponentChanges) -> int:
        """Bytes that are needed if everything free is given back, and these changes come."""
        total = changes.whole_bytes + sum(resident.whole_bytes for resident in self._residents.values())
        for place in self._shelves.keys() | {Place(component, segment) for segment in changes.pages}:
            shelf = self._shelves.get(place, Shelf())
            sites = {site for site, count in shelf.readers.items() if count}
            coming = changes.pages.get(place.segment, 0) if place.component == component else 0
            if coming:
                sites |= {site for site in changes.products if site.segment is place.segment}
            total += (max(shelf.used, _FIRST) + coming) * sum(site.pool.page_bytes for site in sites)
        return total

    def _after(self, component: str, changes: ComponentChanges, room: Mapping[Segment, int]) -> int:
        """Bytes that are allocated once these changes have come into so much room."""
        total = changes.whole_bytes + sum(resident.whole_bytes for resident in self._residents.values())
        for place in self._shelves.keys() | {Place(component, segment) for segment in room}:
            ours = place.component == component and place.segment in room
            shelf = self._shelves.get(place, Shelf())
            sites = self._readers(place, changes) if ours else shelf.readers
            pages = room[place.segment] if ours else shelf.room
            total += pages * sum(site.pool.page_bytes for site in sites)
        return total

    def _readers(self, place: Place, changes: ComponentChanges) -> Collection[Site]:
        """The sites that are open once these changes have come."""
        shelf = self._shelves.get(place, Shelf())
        return shelf.readers.keys() | {site for site in changes.products if site.segment is place.segment}

    def _room(self, component: str, segment: Segment, count: int) -> int:
        """Pages that a segment needs for so many more."""
        shelf = self._shelves.get(Place(component, segment), Shelf())
        return max(shelf.room, max(shelf.used, _FIRST) + count)

    def _generous(self, component: str, changes: ComponentChanges, room: Mapping[Segment, int]) -> dict[Segment, int]:
        """The room that is needed, or the next power of two (beside the page of zeros) where the budget allows it."""
        chosen = dict(room)
        for segment, pages in room.items():
            wished = {**chosen, segment: _FIRST + (1 << (pages - _FIRST - 1).bit_length())}
            if self._after(component, changes, wished) <= self.budget_bytes:
                chosen = wished
        return chosen

    def _victim(self, needed: Collection[tuple[str, WeightFile]]) -> tuple[str, WeightFile]:
        idle = [each for each in self._residents if each not in needed]
        return next((each for each in idle if not self._held(each[1])), idle[0])

    def _drop(self, component: str, key: WeightFile) -> None:
        resident = self._residents.pop((component, key))
        for segment, numbers in resident.pages.items():
            self._shelves[Place(component, segment)].free.update(numbers)
        for site in resident.products:
            self._shelves[Place(component, site.segment)].readers[site] -= 1
        self.epoch += 1

    def _compact(self) -> None:
        """Gives back all free pages, and the pools that no adapter reads."""
        self._note_move()
        try:
            for place in list(self._shelves):
                self._compact_shelf(place)
        finally:
            for place in self._fixed:
                self._stand_in(place)

    def _compact_shelf(self, place: Place) -> None:
        shelf = self._shelves[place]
        for site in [site for site, count in shelf.readers.items() if not count]:
            site.pool.close()
            del shelf.readers[site]
        if not shelf.readers:
            shelf.room, shelf.free = 0, set()
        if not shelf.free:
            return
        kept = [page for page in range(shelf.room) if page not in shelf.free]
        try:
            for site in shelf.readers:
                site.pool.resize(len(kept), torch.tensor(kept, device=site.place))
        except BaseException:
            self._forget(place)  # in some of them a page has another number by now
            raise
        renamed = {page: number for number, page in enumerate(kept)}
        for (component, _), resident in self._residents.items():
            if component == place.component and place.segment in resident.pages:
                resident.pages[place.segment] = [renamed[page] for page in resident.pages[place.segment]]
        shelf.room, shelf.free = len(kept), set()

    def _forget(self, place: Place) -> None:
        """Drops all adapters that have pages there, and closes its pools."""
        for (component, key), resident in list(self._residents.items()):
            if component == place.component and place.segment in resident.pages:
                self._drop(component, key)
        for site in self._shelves.pop(place).readers:
            site.pool.close()

    def _open(self, place: Place, room: int, sites: Iterable[Site]) -> None:
        shelf = self._shelves.setdefault(place, Shelf())
        opened = [site for site in sites if site not in shelf.readers]
        grown = room > shelf.room
        if grown or opened:
            self._note_move()
            self._stand_in(place, room)
        for site in opened if not grown else [*shelf.readers, *opened]:
            site.pool.resize(room)
            shelf.readers.setdefault(site, 0)
        shelf.free.update(range(max(shelf.room, _FIRST), room))
        shelf.room = room

    def _upload(self, component: str, key: WeightFile, changes: ComponentChanges) -> None:
        """Into pages that are free, once all that takes memory is there."""
        places = {segment: Place(component, segment) for segment in changes.pages}
        moved = {dtype: _on(_place_of(changes), block) for dtype, block in changes.blocks.items()}
        wholes = {site: change.moved(partial(_on, site.place)) for site, change in changes.wholes.items()}
        pages: dict[Segment, list[int]] = {}
        for segment, count in changes.pages.items():
            shelf = self._shelves[places[segment]]
            numbers = shelf.next_pages(count)
            index = torch.tensor(numbers, dtype=torch.int64).to(_place_of(changes), non_blocking=True)
            for site in shelf.readers:
                placed = changes.products.get(site)
                if placed is None:
                    site.pool.clear(index)
                else:
                    site.pool.write(index, *placed.views(moved[site.dtype], site))
            pages[segment] = numbers
        for segment, numbers in pages.items():
            self._shelves[places[segment]].free.difference_update(numbers)
        for site in changes.products:
            self._shelves[places[site.segment]].readers[site] += 1
        self._residents[component, key] = _Resident(pages, changes.products, wholes, changes.whole_bytes)


def _bytes_of(together: Sequence[ComponentChanges]) -> int:
    """Of a bank that holds these changes and nothing else."""
    total = sum(changes.whole_bytes for changes in together)
    for segment in Segment:
        pages = sum(changes.pages.get(segment, 0) for changes in together)
        sites = {site for changes in together for site in changes.products if site.segment is segment}
        total += (_FIRST + pages) * sum(site.pool.page_bytes for site in sites)
    return total


def _place_of(changes: ComponentChanges) -> torch.device:
    return next(iter(changes.products)).place


def _on(place: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(place, non_blocking=True)
