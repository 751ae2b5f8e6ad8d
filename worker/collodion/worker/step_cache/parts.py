"""A denoiser in three parts, over diffusers' own modules. One file for each way to cut.

1. Called one after the other they do what the denoiser's `forward` does, operation by operation.
2. No part mixes rows: the deep one may be called for some of them, in any order.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Self, TypeVar

import torch


@dataclass(frozen=True, eq=False, kw_only=True)
class Carried:
    """What the shallow part hands on. A field that is a tensor has the rows before its own axes; anything else is the same for all rows."""

    def of(self, rows: torch.Tensor) -> Self:
        """Of these rows alone. rows: int64, their numbers; may name one twice."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen = {name: rows_of(one, rows) for name, one in tensors.items() if isinstance(one, torch.Tensor)}
        return replace(self, **chosen)


C = TypeVar("C", bound=Carried)


class Parts(ABC, Generic[C]):
    """See the module. A call is what the denoiser is called with, by the names of its parameters (`Architecture.call`)."""

    @abstractmethod
    def shallow(self, call: Mapping[str, Any]) -> tuple[C, torch.Tensor]:
        """Embeddings and the first block. Also what that block added to what it was given: (rows, …)."""

    @abstractmethod
    def deep(self, carried: C) -> torch.Tensor:
        """The other blocks' output: (rows, …)."""

    @abstractmethod
    def tail(self, carried: C, deep: torch.Tensor) -> Any:
        """What the denoiser returns."""

    def kept(self, carried: C, deep: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - for those who keep a difference
        """What to keep of the deep part's output: (rows, …)."""
        return deep

    def again(self, carried: C, kept: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - see above
        """What stands for the deep part's output at a later evaluation. kept: of the same rows as `carried`."""
        return kept


def rows_of(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """A copy of these rows, int64, which lies in memory as the tensor does: `index_select` alone forgets that channels are last."""
    if tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return tensor.index_select(0, rows)
