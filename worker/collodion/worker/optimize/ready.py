"""What was made ready: functions of tensors, compiled or captured for one set of shapes each.

1. A call whose shapes are ready runs through what was made of them; any other runs eagerly, is counted, and its shapes are remembered.
   Nothing is compiled or captured in the middle of work.
2. Shapes become ready when a model is loaded (`make`), on the thread that loads; or later, when the device has nothing to do (`tidy`),
   if that takes no longer than a batch: capturing does not, compiling does.
3. What was made takes memory, within a budget: what was used least recently leaves. What cannot be made is not tried again.
4. A function reads nothing but its tensors and the model's weights. What else it depends on is in its signature.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from weakref import ReferenceType, ref

import torch

from collodion.worker.optimize.observer import Observer

Tensors = Mapping[str, torch.Tensor]
Function = Callable[[Tensors], Tensors]
Shapes = tuple[tuple[str, torch.Size, torch.dtype], ...]

STEP = "step"
"""The name of an evaluation's signature: the only function that calls the denoiser, whose blocks are what is compiled."""
_MOST_LACKED = 64  # shapes remembered to be made ready
_SIZES = (1, 2, 3, 4, 6, 8, 12)  # rows of calls; from 16 on multiples of 8
_MULTIPLE = 8
_FOREIGN = (MemoryError, RuntimeError, TypeError, ValueError, AssertionError, AttributeError, LookupError)
"""What packages of kernels raise for what they do not take; it must not end the device's thread, which calls them at rest."""
_log = logging.getLogger(__name__)


class Signature(NamedTuple):
    """What a call has in common with those that run through the same: its function, whatever else that depends on, and all shapes.

    compiled: what it has in common with those that run through the same compiled code, which knows less of it: the blocks alone.
    """

    name: str
    depends_on: Hashable
    shapes: Shapes
    compiled: Hashable = None

    @classmethod
    def of(cls, name: str, depends_on: Hashable, tensors: Tensors, compiled: Tensors | None = None) -> "Signature":
        """Of a call with these tensors. compiled: those that its compiled code may depend on, all if None."""
        shapes = _shapes(tensors)
        return cls(name, depends_on, shapes, (name, shapes if compiled is None else _shapes(compiled)))

    def example(self, place: torch.device) -> dict[str, torch.Tensor]:
        """Tensors of these shapes, of zeros."""
        return {key: torch.zeros(shape, dtype=dtype, device=place) for key, shape, dtype in self.shapes}


class Prepared(Protocol):
    """A function made ready. nbytes: device memory that it takes for itself. static: it keeps what it was given last."""

    nbytes: int
    static: bool

    def __call__(self, function: Function, tensors: Tensors) -> Tensors:
        """What the function makes of these; a static one takes the others from its last call. The results are the caller's.

        function: does the same as that which was made ready; its structure may be newer.
        """


class Maker(Protocol):
    """Makes functions ready. what: for the observer, "compiled" or "captured"."""

    what: str

    def key(self, signature: Signature) -> Hashable:
        """What calls have in common that run through the same."""

    def quick(self, signature: Signature) -> bool:
        """Whether making it ready takes no longer than a batch."""

    def make(self, signature: Signature, function: Function, tensors: Tensors) -> Prepared:
        """Runs the function on these, some times. Raises MemoryError, RuntimeError."""

    def eagerly(self) -> AbstractContextManager[object]:
        """Around calls of what is not ready: nothing is compiled in it."""


class Stock(NamedTuple):
    """How many shapes are ready, and how much of the device's memory they take."""

    shapes: int = 0
    nbytes: int = 0


@dataclass(eq=False)
class _Entry:
    """owner: whose tensors it was given last."""

    prepared: Prepared
    owner: "ReferenceType[object] | None" = None


class Ready:
    """What was made ready of one model. maker: None makes nothing, and every call is eager, as it is meant to be.

    `stock` may be read on any thread.
    """

    def __init__(self, maker: Maker | None, place: torch.device, budget_bytes: int, observer: Observer) -> None:
        self.maker = maker
        self._place = place
        self._budget_bytes = budget_bytes
        self._observer = observer
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lacked: OrderedDict[Signature, Function] = OrderedDict()
        self._refused: set[Hashable] = set()
        self.stock = Stock()
        self._rehearsing = False

    def size(self, rows: int) -> int:
        """Of a call of so many rows: they are filled up to few different numbers."""
        if self.maker is None:
            return rows
        return next((size for size in _SIZES if size >= rows), -(-rows // _MULTIPLE) * _MULTIPLE)

    def sizes(self, most: int) -> list[int]:
        """All that calls of up to so many rows can have, the greatest first: what comes later fits into its memory."""
        return sorted({self.size(rows) for rows in range(1, most + 1)}, reverse=True)

    def run(
        self,
        signature: Signature,
        function: Function,
        tensors: Tensors,
        varying: Collection[str] = (),
        owner: object | None = None,
    ) -> Tensors:
        """The function's results for these tensors; those that are named by the signature, but varying ones may be missing.

        varying: the names of those that differ from call to call of this owner; the others stay as they were in its last.
        """
        if self.maker is None:
            return function(tensors)
        key = self.maker.key(signature)
        entry = self._entries.get(key)
        if entry is None:
            return self._eagerly(signature, function, tensors)
        self._entries.move_to_end(key)
        if entry.prepared.static and owner is not None and entry.owner is not None and entry.owner() is owner:
            return entry.prepared(function, {name: tensors[name] for name in varying if name in tensors})
        entry.owner = None  # should it raise: some of its tensors are somebody else's then
        results = entry.prepared(function, tensors)
        entry.owner = None if owner is None else ref(owner)
        return results

    def eagerly(self, reason: str, function: Function, tensors: Tensors) -> Tensors:
        """The same for a call that can never be made ready. reason: see Observer."""
        if self.maker is None:
            return function(tensors)
        if not self._rehearsing:
            self._observer.fell_back(reason)
        with self.maker.eagerly():
            return function(tensors)

    def make(self, signature: Signature, function: Function, tensors: Tensors) -> bool:
        """Makes these shapes ready; False if that cannot be."""
        if self.maker is None or self.maker.key(signature) in self._refused:
            return False
        key = self.maker.key(signature)
        began = time.perf_counter()
        try:
            prepared = self.maker.make(signature, function, tensors)
        except _FOREIGN as error:
            # Foreign kernels may not be captured, or compiled: then they run as they always did, and it is said.
            self._refused.add(key)
            _log.warning(
                "not made ready", extra={"call": signature.name, "reason": f"{type(error).__name__}: {error}"[:500]}
            )
            return False
        self._entries[key] = _Entry(prepared)
        while self._taken() > self._budget_bytes and len(self._entries) > 1:
            self._entries.popitem(last=False)
        self._count()
        self._observer.made_ready(self.maker.what, time.perf_counter() - began)
        return True

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Calls within are not counted, and what they lacked is made ready afterwards."""
        self._rehearsing = True
        try:
            yield
        finally:
            self._rehearsing = False
        while self._fulfil(newest=False):  # in the order of `sizes`
            pass

    def tidy(self) -> bool:
        """Makes one of the wished shapes ready, that which was wished for last; False if there was none."""
        return self._fulfil(newest=True)

    def _fulfil(self, newest: bool) -> bool:
        while self.maker is not None and self._lacked:
            signature, function = self._lacked.popitem(last=newest)
            if self.maker.quick(signature):
                self.make(signature, function, signature.example(self._place))
                return True
        return False

    def forget(self, name: str, depends_on: Callable[[Hashable], bool]) -> None:
        """Lets go of what was made ready of a function that depends on something that is no more."""
        for kept in (self._entries, self._lacked):
            for one in [one for one in kept if isinstance(one, Signature) and one.name == name]:
                if depends_on(one.depends_on):
                    del kept[one]
        self._count()

    def release(self) -> None:
        """Gives back the device's memory that it takes: it is short. What is called again is made ready again at rest."""
        for key in [key for key, entry in self._entries.items() if entry.prepared.nbytes]:
            del self._entries[key]
        self._count()

    def clear(self) -> None:
        """Lets go of everything."""
        self._entries.clear()
        self._lacked.clear()
        self._count()

    def _eagerly(self, signature: Signature, function: Function, tensors: Tensors) -> Tensors:
        assert self.maker is not None
        if self.maker.key(signature) in self._refused:
            reason = "not_possible"
        else:
            reason = "not_ready"
            self._lacked[signature] = function
            if len(self._lacked) > _MOST_LACKED:
                self._lacked.popitem(last=False)
        return self.eagerly(reason, function, tensors)

    def _taken(self) -> int:
        return sum(entry.prepared.nbytes for entry in self._entries.values())

    def _count(self) -> None:
        self.stock = Stock(len(self._entries), self._taken())


def _shapes(tensors: Tensors) -> Shapes:
    return tuple(sorted((key, tensor.shape, tensor.dtype) for key, tensor in tensors.items()))
