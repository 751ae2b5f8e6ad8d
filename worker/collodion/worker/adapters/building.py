"""Puts the tensors of one module together to the change that they are."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch

from collodion.worker.adapters.deltas import Delta, Difference, Hadamard, Kronecker, LowRank, Misshapen, folded
from collodion.worker.adapters.grammar import Part


class Built(NamedTuple):
    """bias: (out,)."""

    delta: Delta | None
    bias: torch.Tensor | None


_LOW_RANK = frozenset({Part.DOWN, Part.MID, Part.UP, Part.UP_BIAS, Part.DIFF_BIAS})
_HADAMARD = frozenset(part for part in Part if part.value.startswith("hada_"))
_KRONECKER = frozenset(part for part in Part if part.value.startswith("lokr_"))
_DIFFERENCE = frozenset({Part.DIFF, Part.DIFF_BIAS})
_FACTORS = frozenset({Part.HADA_W1_A, Part.HADA_W1_B, Part.HADA_W2_A, Part.HADA_W2_B})


def build(tensors: Mapping[Part, torch.Tensor], scale: float | None) -> Built:
    """scale: how often a low-rank product counts if there is no alpha; None: once. Raises Misshapen."""
    parts: dict[Part, torch.Tensor] = {part: tensor for part, tensor in tensors.items() if part is not Part.ALPHA}
    alpha = _number(tensors[Part.ALPHA]) if Part.ALPHA in tensors else None
    if parts.keys() & {Part.DOWN, Part.UP}:
        return _low_rank(parts, alpha, scale)
    if parts.keys() & _HADAMARD:
        return Built(_hadamard(parts, alpha), None)
    if parts.keys() & _KRONECKER:
        return Built(_kronecker(parts, alpha), None)
    if parts and parts.keys() <= _DIFFERENCE:
        diff = parts.get(Part.DIFF)
        return Built(None if diff is None else Difference(diff), parts.get(Part.DIFF_BIAS))
    raise Misshapen("it has nothing but " + ", ".join(part.value for part in tensors))


def _low_rank(parts: Mapping[Part, torch.Tensor], alpha: float | None, scale: float | None) -> Built:
    _expect(parts, needed={Part.DOWN, Part.UP}, allowed=_LOW_RANK)
    down, up = parts[Part.DOWN], parts[Part.UP]
    _check(down.ndim in (2, 4) and down.shape[0] > 0, f"its first factor has shape {tuple(down.shape)}")
    strength = (1.0 if scale is None else scale) if alpha is None else alpha / down.shape[0]
    if Part.MID in parts:
        down = folded(down.float(), parts[Part.MID].float())
    bias = parts.get(Part.DIFF_BIAS)
    if Part.UP_BIAS in parts:
        bias = parts[Part.UP_BIAS] * strength + (0 if bias is None else bias)
    delta = LowRank(down, up, strength)
    _ = delta.shape  # raises if the factors do not fit each other
    return Built(delta, bias)


def _hadamard(parts: Mapping[Part, torch.Tensor], alpha: float | None) -> Hadamard:
    cores = {Part.HADA_T1, Part.HADA_T2} & parts.keys()
    _expect(parts, needed=_FACTORS, allowed=_HADAMARD)
    _check(len(cores) != 1, "it has one core where it needs two or none")
    rank = parts[Part.HADA_W1_B].shape[0] if parts[Part.HADA_W1_B].ndim else 0
    delta = Hadamard(
        parts[Part.HADA_W1_A],
        parts[Part.HADA_W1_B],
        parts[Part.HADA_W2_A],
        parts[Part.HADA_W2_B],
        parts.get(Part.HADA_T1),
        parts.get(Part.HADA_T2),
        _strength(alpha, rank),
    )
    _ = delta.shape
    return delta


def _kronecker(parts: Mapping[Part, torch.Tensor], alpha: float | None) -> Kronecker:
    _expect(parts, needed=frozenset(), allowed=_KRONECKER)
    # The rank is that of whichever factor is a product; where none is, LyCORIS does not scale.
    ranked = next((parts[part] for part in (Part.LOKR_W2_B, Part.LOKR_W1_B) if part in parts), None)
    rank = ranked.shape[0] if ranked is not None and ranked.ndim else 0
    delta = Kronecker(
        parts.get(Part.LOKR_W1),
        parts.get(Part.LOKR_W1_A),
        parts.get(Part.LOKR_W1_B),
        parts.get(Part.LOKR_W2),
        parts.get(Part.LOKR_W2_A),
        parts.get(Part.LOKR_W2_B),
        parts.get(Part.LOKR_T2),
        1.0 if ranked is None else _strength(alpha, rank),
    )
    _ = delta.shape
    return delta


def _strength(alpha: float | None, rank: int) -> float:
    _check(rank > 0, "its factors have no rank")
    return 1.0 if alpha is None else alpha / rank


def _number(tensor: torch.Tensor) -> float:
    _check(tensor.numel() == 1, f"its alpha has shape {tuple(tensor.shape)}")
    alpha = float(tensor.item())
    _check(math.isfinite(alpha), f"its alpha is {alpha}")
    return alpha


def _expect(parts: Mapping[Part, torch.Tensor], needed: frozenset[Part] | set[Part], allowed: frozenset[Part]) -> None:
    missing, foreign = needed - parts.keys(), parts.keys() - allowed
    _check(not missing, "it lacks " + ", ".join(sorted(part.value for part in missing)))
    _check(not foreign, "it has " + ", ".join(sorted(part.value for part in foreign)) + ", too")


def _check(fits: bool, otherwise: str) -> None:
    if not fits:
        raise Misshapen(otherwise)
