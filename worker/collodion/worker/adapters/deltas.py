"""By how much an adapter changes a module's weights: as a low-rank product, or in one of the ways that are none.

Low-rank products are applied to the rows of a batch one by one (`bank.py`). The others stay the factors that their files hold, on the
device too, and become a matrix for as long as one module runs (`merging.py`): a LoHa of 30 MB stands for gigabytes of matrices.

Sources. LoRA: Hu et al. 2021, equation 3. LoHa: Hyeon-Woo et al. 2021 (FedPara), proposition 2 and, for convolutions, 3.
LoKr: Yeh et al. 2023 (LyCORIS), section 3.2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, TypeVar

import torch

Shape: TypeAlias = tuple[int, ...]
Moved: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Rows of a matrix, as (first, last + 1) pairs, in their order."""


class Misshapen(ValueError):
    """Factors that do not fit each other. Says how, without the name of the file or module."""


class Delta(Protocol):
    """A change of one module's weights."""

    @property
    def shape(self) -> Shape:
        """Of the matrix, (out, in[, height, width]), from the factors' shapes alone. Raises Misshapen."""

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The factors."""

    def moved(self, move: Moved) -> "Delta":
        """The same with what `move` makes of each factor."""

    def matrix(self) -> torch.Tensor:
        """The change itself, in the factors' dtype."""


_Factored = TypeVar("_Factored", bound="_Factors")


class _Factors:
    """What the dataclasses below have in common: fields that are tensors are their factors."""

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """See Delta."""
        return tuple(value for value in vars(self).values() if isinstance(value, torch.Tensor))

    def moved(self: _Factored, move: Moved) -> _Factored:
        """See Delta."""
        changed: dict[str, Any] = {
            name: move(value) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **changed)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class LowRank(_Factors):
    """`scale` · up · down. down: (rank, in[, height, width]); up: (out, rank[, 1, 1])."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float

    @property
    def rank(self) -> int:
        """How many rows `down` has."""
        return self.down.shape[0]

    @property
    def shape(self) -> Shape:
        """See Delta."""
        if self.down.ndim not in (2, 4) or self.up.ndim not in (2, 4) or self.rank != self.up.shape[1]:
            raise Misshapen(f"its factors have shapes {tuple(self.down.shape)} and {tuple(self.up.shape)}")
        if math.prod(self.up.shape[2:]) != 1:
            raise Misshapen(f"the second of its convolutions is wider than a pixel: {tuple(self.up.shape)}")
        return (self.up.shape[0], *self.down.shape[1:])

    def rows(self, ranges: Ranges) -> "LowRank":
        """Only these rows of the change."""
        return replace(self, up=torch.cat([self.up[first:end] for first, end in ranges]))

    def matrix(self) -> torch.Tensor:
        """See Delta."""
        return (self.up.flatten(1) @ self.down.flatten(1)).reshape(self.shape) * self.scale


@dataclass(frozen=True, eq=False)
class Hadamard(_Factors):
    """LoHa: `scale` · (w1_a · w1_b) ⊙ (w2_a · w2_b), each product bent into a convolution by its core t, if there is one."""

    w1_a: torch.Tensor
    w1_b: torch.Tensor
    w2_a: torch.Tensor
    w2_b: torch.Tensor
    t1: torch.Tensor | None
    t2: torch.Tensor | None
    scale: float

    @property
    def shape(self) -> Shape:
        """See Delta. Without cores, what is (in, height, width) lies flat: (out, in · height · width)."""
        first = _product_shape(self.w1_a, self.w1_b, self.t1)
        second = _product_shape(self.w2_a, self.w2_b, self.t2)
        if first != second:
            raise Misshapen(f"its two products have shapes {first} and {second}")
        return first

    def matrix(self) -> torch.Tensor:
        """See Delta."""
        first = _product(self.w1_a, self.w1_b, self.t1)
        return first.mul_(_product(self.w2_a, self.w2_b, self.t2)).mul_(self.scale)


@dataclass(frozen=True, eq=False)
class Kronecker(_Factors):
    """LoKr: `scale` · w1 ⊗ w2, each whole or a product of two."""

    w1: torch.Tensor | None
    w1_a: torch.Tensor | None
    w1_b: torch.Tensor | None
    w2: torch.Tensor | None
    w2_a: torch.Tensor | None
    w2_b: torch.Tensor | None
    t2: torch.Tensor | None
    scale: float

    @property
    def shape(self) -> Shape:
        """See Delta."""
        first = _either_shape(self.w1, self.w1_a, self.w1_b, None)
        second = _either_shape(self.w2, self.w2_a, self.w2_b, self.t2)
        if len(first) != 2 or len(second) not in (2, 4):
            raise Misshapen(f"its factors have shapes {first} and {second}")
        return (first[0] * second[0], first[1] * second[1], *second[2:])

    def matrix(self) -> torch.Tensor:
        """See Delta."""
        first = _either(self.w1, self.w1_a, self.w1_b, None)
        second = _either(self.w2, self.w2_a, self.w2_b, self.t2)
        first = first.reshape(*first.shape, *[1] * (second.ndim - 2))
        return torch.kron(first, second.contiguous()).mul_(self.scale)


@dataclass(frozen=True, eq=False)
class Difference(_Factors):
    """The whole change, as it is."""

    diff: torch.Tensor

    @property
    def shape(self) -> Shape:
        """See Delta."""
        return tuple(self.diff.shape)

    def matrix(self) -> torch.Tensor:
        """See Delta."""
        return self.diff


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a change: of one that a file holds for several modules together, or for one whose rows are in another order."""

    of: Delta
    ranges: Ranges

    @property
    def shape(self) -> Shape:
        """See Delta."""
        return (sum(end - first for first, end in self.ranges), *self.of.shape[1:])

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """See Delta."""
        return self.of.tensors

    def moved(self, move: Moved) -> "Rows":
        """See Delta."""
        return Rows(self.of.moved(move), self.ranges)

    def matrix(self) -> torch.Tensor:
        """See Delta."""
        whole = self.of.matrix()
        return torch.cat([whole[first:end] for first, end in self.ranges])


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether all its numbers are. A sum is finite only if all in it are, and takes a fraction of the time; it may overflow, though."""
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())


def folded(down: torch.Tensor, mid: torch.Tensor) -> torch.Tensor:
    """`down` (rank, in, 1, 1) and the convolution `mid` (rank', rank, height, width) after it as one. Raises Misshapen."""
    if mid.ndim != 4 or down.shape[0] != mid.shape[1] or math.prod(down.shape[2:]) != 1:
        raise Misshapen(f"its factors have shapes {tuple(down.shape)} and {tuple(mid.shape)}")
    return torch.einsum("mnhw,ni->mihw", mid, down.flatten(1))


def _product_shape(a: torch.Tensor, b: torch.Tensor, core: torch.Tensor | None) -> Shape:
    if a.ndim != 2 or b.ndim != 2:
        raise Misshapen(f"its factors have shapes {tuple(a.shape)} and {tuple(b.shape)}")
    if core is None:
        if a.shape[1] != b.shape[0]:
            raise Misshapen(f"its factors have shapes {tuple(a.shape)} and {tuple(b.shape)}")
        return (a.shape[0], b.shape[1])
    if core.ndim != 4 or tuple(core.shape[:2]) != (a.shape[0], b.shape[0]):
        shapes = f"{tuple(core.shape)}, {tuple(a.shape)} and {tuple(b.shape)}"
        raise Misshapen(f"its core and factors have shapes {shapes}")
    return (a.shape[1], b.shape[1], *core.shape[2:])


def _product(a: torch.Tensor, b: torch.Tensor, core: torch.Tensor | None) -> torch.Tensor:
    return a @ b if core is None else torch.einsum("ijhw,ip,jr->prhw", core, a, b)


def _either_shape(
    whole: torch.Tensor | None, a: torch.Tensor | None, b: torch.Tensor | None, core: torch.Tensor | None
) -> Shape:
    if whole is not None:
        return tuple(whole.shape)
    if a is None or b is None:
        raise Misshapen("it lacks a factor")
    return _product_shape(a, b, core)


def _either(
    whole: torch.Tensor | None, a: torch.Tensor | None, b: torch.Tensor | None, core: torch.Tensor | None
) -> torch.Tensor:
    if whole is not None:
        return whole
    assert a is not None
    assert b is not None
    return _product(a, b, core)
