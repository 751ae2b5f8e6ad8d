"""Low-rank products, added to a module's output row by row.

Linear, row i:       outputs_i + (inputs_i · A_iᵀ ∘ w_i) · B_i
Convolution, row i:  outputs_i + B_iᵀ (w_i ∘ conv(inputs_i, A_i))

A_i and B_i are the pages of row i: those of all its adapters one behind the other; w_i says for each rank how strong its adapter is,
0 where there is nothing.

1. `Gathered`: each row has its own, gathered by number. The shapes depend on the number of rows and of ranks alone, and what differs from
   batch to batch is in tensors, so a CUDA graph can hold it and compiled code is not compiled again.
2. `Shared`: all rows have the same, so there is nothing to gather by the row; if the pages lie side by side nothing is copied at all.
3. `OfSome`: where few rows have any, only these are looked at.
4. A row never reads another's adapters, not even to multiply them by zero: infinity times zero would spoil it.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere

from collodion.worker.adapters.pool import PAGE
from collodion.worker.adapters.sites import Segment, Site


@dataclass(frozen=True, eq=False)
class Gathered:
    """The products of one segment for one batch. pages: int64 (rows · ranks / PAGE,). weights: (rows, ranks)."""

    rows: int
    ranks: int
    pages: torch.Tensor
    weights: torch.Tensor

    def add(self, site: Site, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """The outputs with the products added, in place if that is possible; in the module's dtype, as they are."""
        down = site.pool.down.index_select(0, self.pages).view(self.rows, self.ranks, -1)
        up = site.pool.up.index_select(0, self.pages).view(self.rows, self.ranks, -1)
        # Of a segment whose modules differ in their dtype (T5 keeps some in float32) each has its own.
        weights = self.weights.to(site.dtype)
        if site.spatial:
            return _expanded(self._convolved(site, inputs, down) * weights.unsqueeze(2), up, outputs)
        read = site.by_row(inputs, self.rows).reshape(self.rows, -1, inputs.shape[-1])
        inner = torch.bmm(read, down.transpose(1, 2)) * weights.unsqueeze(1)
        changed = outputs.reshape(self.rows, -1, outputs.shape[-1]).baddbmm_(inner, up)
        return changed.view(outputs.shape)

    def _convolved(self, site: Site, inputs: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        """(rows, ranks, pixels)."""
        _check_rows(site, inputs, self.rows)
        if _is_pointwise(site):
            return torch.bmm(down, inputs.flatten(2))
        stacked = inputs.reshape(1, -1, *inputs.shape[2:])  # every row is a group of one convolution
        inner = _convolution(site, stacked, down.view(-1, *site.shape[1:]), groups=self.rows)
        return inner.view(self.rows, self.ranks, -1)


@dataclass(frozen=True, eq=False)
class Shared:
    """The products of one segment for a batch whose rows all have the same.

    pages: int64 (ranks / PAGE,). first: the first of them if they are one behind the other, else None. weights: (rows, ranks), or
    (ranks,) if they are one for all rows; None if there is one for all ranks, too, which is `scale` then.
    """

    rows: int
    ranks: int
    pages: torch.Tensor
    first: int | None
    weights: torch.Tensor | None
    scale: float

    def add(self, site: Site, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """See Gathered."""
        down, up = self._pages(site.pool.down), self._pages(site.pool.up)
        weights = None if self.weights is None else self.weights.to(site.dtype)
        if site.spatial:
            inner = self._convolved(site, inputs, down)
            if weights is not None:
                inner = inner * weights.unsqueeze(-1)  # (ranks, 1) or (rows, ranks, 1)
            return _expanded(inner, up.expand(len(inputs), -1, -1), outputs, self.scale)
        inner = F.linear(inputs, down)
        if weights is not None:
            by_row = site.by_row(inner, self.rows).reshape(self.rows, -1, self.ranks)
            inner = by_row * weights.unsqueeze(-2)  # (1, ranks) or (rows, 1, ranks)
        changed = outputs.reshape(-1, outputs.shape[-1])
        return changed.addmm_(inner.reshape(-1, self.ranks), up, alpha=self.scale).view(outputs.shape)

    def _pages(self, pool: torch.Tensor) -> torch.Tensor:
        """(ranks, width)."""
        if self.first is None:
            return pool.index_select(0, self.pages).view(self.ranks, -1)
        return pool.narrow(0, self.first, self.ranks // PAGE).view(self.ranks, -1)

    def _convolved(self, site: Site, inputs: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        """(rows, ranks, pixels)."""
        if self.weights is not None:
            _check_rows(site, inputs, self.rows)
        if _is_pointwise(site):
            return torch.matmul(down, inputs.flatten(2))
        return _convolution(site, inputs, down.view(self.ranks, *site.shape[1:])).flatten(2)


@dataclass(frozen=True, eq=False)
class OfSome:
    """The products of some rows only; the others are not looked at.

    rows: of the whole call. places: int64, those that are meant. first: the first of them if they are one behind the other, else None.
    """

    rows: int
    places: torch.Tensor
    first: int | None
    product: Gathered | Shared

    def add(self, site: Site, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """See Gathered."""
        read, written = site.by_row(inputs, self.rows), site.by_row(outputs, self.rows)
        if self.first is not None and outputs.is_contiguous():
            read, written = (each.narrow(0, self.first, self.product.rows).flatten(0, 1) for each in (read, written))
            self.product.add(site, read, written)  # in place
            return outputs
        own = (each.index_select(0, self.places) for each in (read, written))
        changed = self.product.add(site, *(each.flatten(0, 1) for each in own))
        written.index_copy_(0, self.places, site.by_row(changed, self.product.rows))
        return outputs


Product: TypeAlias = Gathered | Shared | OfSome


def _expanded(inner: torch.Tensor, up: torch.Tensor, outputs: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """outputs + scale · upᵀ · inner. inner: (rows, ranks, pixels); up: (rows, ranks, out).

    A convolution of one pixel would say the same and takes ten times as long on a CPU.
    """
    if outputs.is_contiguous():
        return outputs.flatten(2).baddbmm_(up.transpose(1, 2), inner, alpha=scale).view(outputs.shape)
    return outputs.add_(torch.bmm(up.transpose(1, 2), inner).view(outputs.shape), alpha=scale)


def _check_rows(site: Site, inputs: torch.Tensor, rows: int) -> None:
    if len(inputs) != rows:
        raise ValueError(f"{site.name} is called with {len(inputs)} rows in a batch of {rows}")


def _is_pointwise(site: Site) -> bool:
    module: Any = site.module
    return site.segment is Segment.POINTWISE and set(module.stride) == {1} and set(module.padding) == {0}


def _convolution(site: Site, inputs: torch.Tensor, kernel: torch.Tensor, groups: int = 1) -> torch.Tensor:
    module: Any = site.module
    return F.conv2d(inputs, kernel, None, module.stride, module.padding, module.dilation, groups)
