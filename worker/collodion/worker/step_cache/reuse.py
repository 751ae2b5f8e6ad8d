"""Which latents of a model call use their deep part's last output again, and the call itself.

The rule is that of diffusers' first-block cache (`diffusers.hooks.first_block_cache`), by the latent: of what the first block adds to what
it is given, the mean absolute difference from what it added at the latent's last full evaluation, relative to the mean absolute value of
that. Up to the latent's threshold, the deep part is not called for its rows.

1. A latent's rows, prompted and negative, are measured together and decided on together; no other row is looked at.
2. Differences and means are of the model's dtype, as diffusers has them; sums are float32.
3. Beside the threshold, `MOST_IN_A_ROW` bounds how far a latent can drift: small changes add up to large ones.
4. The host waits for the device once in a call, and only if a latent in it may reuse something.
5. Nothing is changed: what the latents keep from now on is returned, for the caller to commit.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch

from collodion.worker.families.architecture import Architecture, Rows
from collodion.worker.step_cache.parts import rows_of

MOST_IN_A_ROW = 3
"""Evaluations of a latent that reuse, one behind the other: a quarter are full at least. At thresholds that keep the picture there hardly
ever are more (`benchmarks/LOG.md`); beyond them, it is this that ends the drift."""

Around = Callable[[Sequence[int]], AbstractContextManager[object]]
"""What applies the adapters of these rows, by their numbers, to a call of the denoiser with just them."""


@dataclass(frozen=True, eq=False)
class Reuse:
    """What a latent keeps from its last full evaluation: tensors of its rows, of the model's dtype.

    change: what the first block added. deep: what stands for the deep part's output. in_a_row: evaluations that have reused it since.
    """

    change: torch.Tensor
    deep: torch.Tensor
    in_a_row: int = 0

    @property
    def nbytes(self) -> int:
        """Of both."""
        return self.change.nbytes + self.deep.nbytes


@dataclass(frozen=True, eq=False)
class CachedLatent:
    """A latent of a model call. rows: where its rows are in the call, always in the same order. reuse: what it kept.

    may: whether it has permission, at this evaluation and the next one; False at its last one, which is full and leaves nothing.
    """

    rows: tuple[int, ...]
    threshold: float
    reuse: Reuse | None
    may: bool

    @property
    def caches(self) -> bool:
        """Whether it takes part at all."""
        return self.may and self.threshold > 0

    @property
    def asks(self) -> bool:
        """Whether it reuses what it kept if that has hardly changed."""
        return self.caches and self.reuse is not None and self.reuse.in_a_row < MOST_IN_A_ROW


class StepCache:
    """For one model. padded: how many rows the deep part is called with where some reuse, given how many it has to be called for.

    That is for where the same kernels always have to run; a row is repeated then.
    Raises Unsuitable if the architecture has no parts.
    """

    def __init__(self, architecture: Architecture, padded: Callable[[int], int] = lambda rows: rows) -> None:
        self._architecture = architecture
        self._parts = architecture.parts()
        self._padded = padded

    def predict(
        self, rows: Rows, latents: Sequence[CachedLatent], around: Around
    ) -> tuple[torch.Tensor, list[Reuse | None]]:
        """`Architecture.predict`, but for latents that reuse; and what each latent keeps, in their order.

        One that has reused has `in_a_row` > 0. Where nobody takes part, it is the architecture's own call.
        """
        everybody = range(len(rows.inputs))
        if not any(latent.caches for latent in latents):
            with around(everybody):
                return self._architecture.predict(rows), [None] * len(latents)
        with around(everybody):
            carried, change = self._parts.shallow(self._architecture.call(rows))
        reusing = _reusing(latents, change)
        deep = self._deep(carried, latents, reusing, len(change), around)
        with around(everybody):
            output = self._architecture.answer(self._parts.tail(carried, deep), rows)
        return output, self._kept(carried, change, deep, latents, reusing)

    def _deep(
        self, carried: Any, latents: Sequence[CachedLatent], reusing: Sequence[bool], size: int, around: Around
    ) -> torch.Tensor:
        """The deep part's output: called, or kept. What it is for rows of no latent is of no account."""
        if not any(reusing):
            with around(range(size)):
                return self._parts.deep(carried)
        kept = torch.cat(
            [latent.reuse.deep for latent, again in zip(latents, reusing, strict=True) if again and latent.reuse]
        )
        places = {row: place for place, row in enumerate(_numbers_of(latents, reusing))}
        known = rows_of(kept, _numbers([places.get(row, 0) for row in range(size)], kept))
        deep = self._parts.again(carried, known)  # of the other rows something, for now
        full = _numbers_of(latents, [not again for again in reusing])
        if full:
            called = full + full[-1:] * (self._padded(len(full)) - len(full))
            with around(called):
                made = self._parts.deep(carried.of(_numbers(called, deep)))
            deep.index_copy_(0, _numbers(full, deep), made[: len(full)])
        return deep

    def _kept(
        self,
        carried: Any,
        change: torch.Tensor,
        deep: torch.Tensor,
        latents: Sequence[CachedLatent],
        reusing: Sequence[bool],
    ) -> list[Reuse | None]:
        """Copies: a view of the batch would keep all of it in memory for as long as one of its latents."""
        if all(reusing):
            return [latent.reuse and replace(latent.reuse, in_a_row=latent.reuse.in_a_row + 1) for latent in latents]
        kept = self._parts.kept(carried, deep)
        made: list[Reuse | None] = []
        for latent, again in zip(latents, reusing, strict=True):
            if again and latent.reuse is not None:
                made.append(replace(latent.reuse, in_a_row=latent.reuse.in_a_row + 1))
            elif latent.caches:
                rows = _numbers(latent.rows, kept)
                made.append(Reuse(rows_of(change, rows), rows_of(kept, rows)))
            else:
                made.append(None)
        return made


def _reusing(latents: Sequence[CachedLatent], change: torch.Tensor) -> list[bool]:
    """Which of them reuse. A change that is no number is no reason to."""
    asking = [(latent, latent.reuse) for latent in latents if latent.asks and latent.reuse is not None]
    if not asking:
        return [False] * len(latents)
    before = torch.cat([reuse.change for _, reuse in asking])
    now = rows_of(change, _numbers([row for latent, _ in asking for row in latent.rows], change))
    many = [len(latent.rows) for latent, _ in asking]
    owners = _numbers([place for place, rows in enumerate(many) for _ in range(rows)], change)
    counts = _numbers([rows * before[0].numel() for rows in many], change)
    changes = iter((_means(now - before, owners, counts) / _means(before, owners, counts)).tolist())
    return [latent.asks and next(changes) <= latent.threshold for latent in latents]


def _means(tensor: torch.Tensor, owners: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Of absolute values. tensor: (rows, …). owners: (rows,), whose each is. counts: how many values each has. Returns (owners,)."""
    sums = tensor.abs().sum(dim=tuple(range(1, tensor.dim())), dtype=torch.float32)
    return (sums.new_zeros(len(counts)).index_add_(0, owners, sums) / counts).to(tensor.dtype)


def _numbers_of(latents: Sequence[CachedLatent], chosen: Sequence[bool]) -> list[int]:
    return [row for latent, yes in zip(latents, chosen, strict=True) if yes for row in latent.rows]


def _numbers(numbers: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """int64, where `like` is; the host does not wait for the copy."""
    made = torch.tensor(numbers, dtype=torch.int64, pin_memory=like.is_cuda)
    return made.to(like.device, non_blocking=True)
