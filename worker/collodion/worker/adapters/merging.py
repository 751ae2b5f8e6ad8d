"""Changes that are no low-rank products: the module's matrix is changed for as long as the module runs.

weights + scale · change, once for all rows that have it. That costs a few reads of the weights a call, where an output of its own
would cost the module's arithmetic again, and keeping it the memory of a second model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere

from collodion.worker.adapters.deltas import Delta
from collodion.worker.adapters.sites import Site
from collodion.worker.weights import plain


class Whole(NamedTuple):
    """A changed matrix, and how strong it is. bias: (out,) or None."""

    delta: Delta | None
    bias: torch.Tensor | None
    scale: float


@dataclass(frozen=True, eq=False)
class Merge:
    """Changed matrices, one on top of the other. places: int64, the rows that have them; None: all."""

    rows: int
    places: torch.Tensor | None
    wholes: Sequence[Whole]

    def outputs(self, site: Site, inputs: torch.Tensor) -> torch.Tensor:
        """Of the module with its matrix changed, for inputs that all have it."""
        module: Any = site.module
        weight, bias = plain(module.weight), module.bias
        for whole in self.wholes:
            if whole.delta is not None:
                change = whole.delta.matrix().reshape(weight.shape).to(weight.dtype)
                weight = torch.add(weight, change, alpha=whole.scale)
            if whole.bias is not None:
                change = whole.bias.to(weight.dtype) * whole.scale
                bias = change if bias is None else bias + change
        if site.spatial:
            return F.conv2d(inputs, weight, bias, module.stride, module.padding, module.dilation)
        return F.linear(inputs, weight, bias)

    def overwrite(self, site: Site, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Puts the outputs of the rows that have it in their places."""
        assert self.places is not None
        own = site.by_row(inputs, self.rows).index_select(0, self.places)
        changed = self.outputs(site, own.flatten(0, 1))
        site.by_row(outputs, self.rows).index_copy_(0, self.places, site.by_row(changed, len(self.places)))
