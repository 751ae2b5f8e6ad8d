"""The adapters of one loaded model. What a family does with them:

    pipeline.to(device)
    adapters = Adapters({"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}, AdapterBudgets(2 << 30, 4 << 30))

    uses = tuple(adapters.load(path).at(scale) for …)        # any thread; keep them with the job and with every latent's state

    selection = adapters.select("unet", rows, size)           # device thread; once for each composition of a step batch
    with adapters.applied(selection):                         # device thread; every step
        predicted = unet(…)

Rows that nobody changes cost nothing; a selection without any adapter makes `applied` do nothing at all.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from torch import nn

from collodion.worker.adapters.bank import Bank
from collodion.worker.adapters.loaded import LoadedAdapter, make_ready
from collodion.worker.adapters.names import Names
from collodion.worker.adapters.reading import read_adapter
from collodion.worker.adapters.selection import Row, Selection
from collodion.worker.adapters.sites import Site, attach, detach, sites_of
from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.registry.sources import WeightFile


@dataclass(frozen=True)
class AdapterBudgets:
    """Memory for adapters, in bytes: on the device, and on the host for those that nobody uses at the moment."""

    device_bytes: int
    host_bytes: int


class Adapters:
    """Reads adapters and applies them to the components of one model.

    components: all that models of this architecture have and that adapters change, by diffusers' names for them; None for one that is
    not loaded. They are on their device, in their dtype, and stay there. exclude: beginnings of paths ("transformer.cap_embedder")
    of modules that are not called row by row; an adapter for these is unusable. every_row: the arithmetic goes over all rows, so that
    which kernels run, and with them a row's rounding, does not depend on how many others have adapters; without it rows that have none
    cost nothing.
    """

    def __init__(
        self,
        components: Mapping[str, nn.Module | None],
        budgets: AdapterBudgets,
        exclude: Collection[str] = (),
        every_row: bool = True,
    ) -> None:
        self._sites = {
            component: sites_of(component, model, _within(component, exclude))
            for component, model in components.items()
            if model is not None
        }
        loaded = {
            component: None if model is None else (model, self._sites[component])
            for component, model in components.items()
        }
        self._names = Names(loaded)
        self._budgets = budgets
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._alive: WeakValueDictionary[WeightFile, LoadedAdapter] = WeakValueDictionary()
        self._recent: OrderedDict[WeightFile, LoadedAdapter] = OrderedDict()
        self.bank = Bank(budgets.device_bytes, self._is_held, every_row)
        for sites in self._sites.values():
            attach(sites)

    def load(self, path: Path) -> LoadedAdapter:
        """The adapter in this file, in host memory. Any thread, one at a time; a file that is in memory is not read again.

        Raises ModelUnusable, MemoryError.
        """
        with self._reading:  # not the lock that the device thread takes: reading may last
            key = WeightFile.at(path)
            with self._lock:
                adapter = self._alive.get(key)
            if adapter is None:
                adapter = make_ready(key, read_adapter(path, self._names))
                if WeightFile.at(path) != key:
                    raise ModelUnusable(f"{path} was changed while it was read")
            with self._lock:
                self._alive[key] = adapter
                self._keep(adapter)
        return adapter

    def select(self, component: str, rows: Sequence[Row], size: int = 0, ranks: int = 0) -> Selection:
        """See `Bank.select`. Device thread. Raises MemoryError."""
        return self.bank.select(component, rows, size, ranks)

    def fix(self, component: str, paths: Collection[str]) -> None:
        """From now on a selection with `ranks` has a product for every module at these paths of the component and below them.

        For compiled code, which would have to be compiled again if an adapter changed other modules than the one before. Before the
        first batch. paths: "transformer_blocks.0", …
        """
        below = tuple(path + "." for path in paths)
        self.bank.fix([site for path, site in self._sites[component].items() if (path + ".").startswith(below)])

    @contextlib.contextmanager
    def applied(self, *selections: Selection) -> Iterator[None]:
        """Calls of the models within have these adapters. Device thread; at most one selection for each component.

        Raises MemoryError, before anything is called, if adapters that were dropped since do not find room again.
        """
        for selection in selections:
            self.bank.refresh(selection)
        try:
            for selection in selections:
                for site, change in selection.changes:
                    site.applied = change
            yield
        finally:
            for selection in selections:
                for site, _ in selection.changes:
                    site.applied = None

    @property
    def host_bytes(self) -> int:
        """Memory of the adapters on the host, those in use among them."""
        with self._lock:
            return sum(adapter.nbytes for adapter in self._alive.values())

    @property
    def sites(self) -> Mapping[str, Mapping[str, Site]]:
        """The modules that adapters can change, by component and path."""
        return self._sites

    def close(self) -> None:
        """The models are what they were, and all memory of the device is given back. Device thread."""
        for sites in self._sites.values():
            detach(sites)
        self.bank.clear()
        with self._lock:
            self._recent.clear()
        # The bank knows this object, and this object the bank: what both know would wait for a full garbage collection.
        self._sites = {}
        del self._names

    def _keep(self, adapter: LoadedAdapter) -> None:
        """As the one that was asked for last; forgets the others as far as the budget wants it."""
        self._recent[adapter.key] = adapter
        self._recent.move_to_end(adapter.key)
        total = sum(each.nbytes for each in self._recent.values())
        while total > self._budgets.host_bytes and len(self._recent) > 1:
            _, forgotten = self._recent.popitem(last=False)
            total -= forgotten.nbytes

    def _is_held(self, key: WeightFile) -> bool:
        adapter = self._alive.get(key)
        return adapter is not None and adapter.held


def _within(component: str, exclude: Collection[str]) -> list[str]:
    """Those of the paths that are in this component, without its name."""
    return [path.removeprefix(component + ".") for path in exclude if path.startswith(component + ".")]
