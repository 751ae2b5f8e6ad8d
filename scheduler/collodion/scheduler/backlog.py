"""Latents that wait for a worker, in the policy's order, for each model and each batch key.

1. Everything is a heap with lazy deletion: an entry counts while its ticket is its latent's. Taking one out costs nothing at
   once; a heap that is mostly dead entries is rebuilt.
2. Adding and the first n cost O(log n) each, whatever waits behind.
"""

import heapq
from collections.abc import Container, Iterable, Iterator

from collodion.scheduler.job import Latent, Rank

_Entry = tuple[Rank, int, Latent]
_DEAD_ALLOWED = 64


class _Line:
    """The waiting latents of one model or key."""

    def __init__(self) -> None:
        self.live = 0
        self._heap: list[_Entry] = []

    def push(self, entry: _Entry) -> None:
        heapq.heappush(self._heap, entry)
        self.live += 1

    def removed(self) -> None:
        """One latent's ticket became void."""
        self.live -= 1
        if len(self._heap) > 2 * self.live + _DEAD_ALLOWED:
            self._heap = [entry for entry in self._heap if entry[1] == entry[2].ticket]
            heapq.heapify(self._heap)

    def first(self, count: int) -> list[Latent]:
        taken = [entry for entry in (self._pop() for _ in range(min(count, self.live))) if entry]
        for entry in taken:
            heapq.heappush(self._heap, entry)
        return [latent for _, _, latent in taken]

    def head(self) -> Latent:
        while self._heap[0][1] != self._heap[0][2].ticket:
            heapq.heappop(self._heap)
        return self._heap[0][2]

    def _pop(self) -> _Entry | None:
        while self._heap:
            entry = heapq.heappop(self._heap)
            if entry[1] == entry[2].ticket:
                return entry
        return None


class Backlog:
    """All waiting latents."""

    def __init__(self) -> None:
        self._models: dict[str, _Line] = {}
        self._keys: dict[str, dict[str, _Line]] = {}
        self._tickets = 0
        self.total = 0

    def add(self, latent: Latent) -> None:
        """Puts a latent in line, by its rank."""
        assert not latent.ticket, "it waits already"
        self._tickets += 1
        latent.ticket = self._tickets
        entry = (latent.rank, latent.ticket, latent)
        model = latent.model
        self._models.setdefault(model, _Line()).push(entry)
        self._keys.setdefault(model, {}).setdefault(latent.key, _Line()).push(entry)
        self.total += 1

    def remove(self, latent: Latent) -> None:
        """Takes a latent out of line; nothing if it does not wait."""
        if not latent.ticket:
            return
        latent.ticket = 0
        self.total -= 1
        model = latent.model
        keys = self._keys[model]
        _shorten(keys, latent.key)
        _shorten(self._models, model)
        if not keys:
            del self._keys[model]

    def head(self, models: Iterable[str]) -> Latent | None:
        """The first latent of these models."""
        heads = [self._models[model].head() for model in models if model in self._models]
        return min(heads, key=lambda latent: latent.rank, default=None)

    def first_for(self, models: Container[str], like: Latent, count: int) -> list[Latent]:
        """The first `count` latents of this one's key, in order; none if its model is none of these."""
        return self.first(like.model, like.key, count) if like.model in models else []

    def first(self, model: str, key: str, count: int) -> list[Latent]:
        """The first `count` latents of a key, in order."""
        line = self._keys.get(model, {}).get(key)
        return line.first(count) if line and count > 0 else []

    def models(self) -> Iterable[str]:
        """The models that something waits for."""
        return self._models.keys()

    def count(self, model: str, key: str | None = None) -> int:
        """How many wait for this model, or for one key of it."""
        line = self._models.get(model) if key is None else self._keys.get(model, {}).get(key)
        return line.live if line else 0

    def keys(self, model: str) -> Iterator[tuple[str, int, Latent]]:
        """For each key of a model: how many wait, and the first of them."""
        return ((key, line.live, line.head()) for key, line in self._keys.get(model, {}).items())

    def clear(self) -> None:
        """Nothing waits any more. (The latents' tickets are the caller's to void.)"""
        self._models, self._keys, self.total = {}, {}, 0


def _shorten(lines: dict[str, _Line], name: str) -> None:
    lines[name].removed()
    if not lines[name].live:
        del lines[name]
