"""Low-rank products, added to a module's output row by row.

Linear, row i:       outputs_i + (inputs_i · A_iᵀ ∘ w_i) · B_i
Convolution, row i:  outputs_i + B_iᵀ (w_i ∘ conv(inputs_i, A_i))

A_i and B_i are the pages of row i, gathered by number: those of all its adapters one behind the other; w_i says for each rank how
strong its adapter is, 0 where there is nothing. The shapes depend on the number of rows and of ranks alone, so a CUDA graph can
hold it. If all rows have the same adapters there is nothing to gather by the row.

A row never reads another's adapters, not even to multiply them by zero: infinity times zero would spoil it.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere

from collodion.worker.adapters.sites import Segment, Site


@dataclass(frozen=True, eq=False)
class Product:
    """The low-rank products of one segment for one batch.

    pages: int64, (rows · pages a row) numbers, or for all rows at once the pages of one. weights: (rows, ranks), or (ranks,) if they
    are one for all rows; in the modules' dtype.
    """

    rows: int
    ranks: int
    pages: torch.Tensor
    weights: torch.Tensor
    shared: bool

    def add(self, site: Site, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Changes `outputs` in place if that is possible; returns them."""
        if inputs.dtype != site.dtype or outputs.dtype != site.dtype:
            added = self.add(site, inputs.to(site.dtype), outputs.new_zeros(outputs.shape, dtype=site.dtype))
            return outputs + added.to(outputs.dtype)
        down = site.pool.down.index_select(0, self.pages)
        up = site.pool.up.index_select(0, self.pages)
        return _WAYS[site.spatial, self.shared](self, site, inputs, outputs, down, up)

    def weights_for(self, site: Site) -> torch.Tensor:
        """Of a segment whose modules differ in their dtype (T5 keeps some in float32) each reads its own."""
        return self.weights.to(site.dtype)


def _add(
    product: Product, site: Site, inputs: torch.Tensor, outputs: torch.Tensor, down: torch.Tensor, up: torch.Tensor
) -> torch.Tensor:
    rows, ranks = product.rows, product.ranks
    read = site.by_row(inputs, rows).reshape(rows, -1, inputs.shape[-1])
    inner = torch.bmm(read, down.view(rows, ranks, -1).transpose(1, 2)) * product.weights_for(site).unsqueeze(1)
    changed = outputs.reshape(rows, -1, outputs.shape[-1]).baddbmm_(inner, up.view(rows, ranks, -1))
    return changed.view(outputs.shape)


def _add_shared(
    product: Product, site: Site, inputs: torch.Tensor, outputs: torch.Tensor, down: torch.Tensor, up: torch.Tensor
) -> torch.Tensor:
    ranks, weights = product.ranks, product.weights_for(site)
    inner = F.linear(inputs, down.view(ranks, -1))
    if weights.ndim == 2:
        inner, weights = site.by_row(inner, product.rows).reshape(product.rows, -1, ranks), weights.unsqueeze(1)
    inner = (inner * weights).reshape(-1, ranks)
    changed = outputs.reshape(-1, outputs.shape[-1]).addmm_(inner, up.view(ranks, -1))
    return changed.view(outputs.shape)


def _add_convolution(
    product: Product, site: Site, inputs: torch.Tensor, outputs: torch.Tensor, down: torch.Tensor, up: torch.Tensor
) -> torch.Tensor:
    rows, ranks = product.rows, product.ranks
    _check_rows(product, site, inputs)
    if _is_pointwise(site):
        inner = torch.bmm(down.view(rows, ranks, -1), inputs.flatten(2))
    else:  # every row is a group of one convolution
        stacked = inputs.reshape(1, -1, *inputs.shape[2:])
        inner = _convolved(site, stacked, down.view(rows * ranks, *site.shape[1:]), groups=rows).view(rows, ranks, -1)
    return _expanded(inner * product.weights_for(site).unsqueeze(2), up.view(rows, ranks, -1), outputs)


def _add_shared_convolution(
    product: Product, site: Site, inputs: torch.Tensor, outputs: torch.Tensor, down: torch.Tensor, up: torch.Tensor
) -> torch.Tensor:
    ranks, weights = product.ranks, product.weights_for(site)
    if weights.ndim == 2:
        _check_rows(product, site, inputs)
    if _is_pointwise(site):
        inner = torch.matmul(down.view(ranks, -1), inputs.flatten(2))
    else:
        inner = _convolved(site, inputs, down.view(ranks, *site.shape[1:])).flatten(2)
    inner = inner * weights.unsqueeze(-1)  # (ranks, 1) or (rows, ranks, 1)
    return _expanded(inner, up.view(1, ranks, -1).expand(len(inputs), -1, -1), outputs)


def _expanded(inner: torch.Tensor, up: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """outputs + upᵀ · inner. inner: (rows, ranks, pixels); up: (rows, ranks, out).

    A convolution of one pixel would say the same and takes ten times as long on a CPU.
    """
    if outputs.is_contiguous():
        return outputs.flatten(2).baddbmm_(up.transpose(1, 2), inner).view(outputs.shape)
    return outputs.add_(torch.bmm(up.transpose(1, 2), inner).view(outputs.shape))


def _check_rows(product: Product, site: Site, inputs: torch.Tensor) -> None:
    if len(inputs) != product.rows:
        raise ValueError(f"{site.name} is called with {len(inputs)} rows in a batch of {product.rows}")


def _is_pointwise(site: Site) -> bool:
    module: Any = site.module
    return site.segment is Segment.POINTWISE and set(module.stride) == {1} and set(module.padding) == {0}


def _convolved(site: Site, inputs: torch.Tensor, kernel: torch.Tensor, groups: int = 1) -> torch.Tensor:
    module: Any = site.module
    return F.conv2d(inputs, kernel, None, module.stride, module.padding, module.dilation, groups)


_WAYS = {
    (False, False): _add,
    (False, True): _add_shared,
    (True, False): _add_convolution,
    (True, True): _add_shared_convolution,
}
