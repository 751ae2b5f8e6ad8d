"""Fused projections: one matrix product where an attention's query, key and value read the same input.

1. The weights lie side by side in one piece of memory; each layer's parameter is a view of its rows. Nothing is held twice, the state
   dict is as it was, and the matrix of all of them is read from where the first layer's weights begin (`as_strided`), so that it is
   gone when they are.
2. An attention's class is exchanged for one whose `forward` runs on itself behind `_Projected`: the processor calls `to_q`, `to_k` and
   `to_v` as ever, the first call computes all of them, and the others are handed their part. Processors stay as they are.
3. The layers remain the sites of adapters: what is applied to a layer for a call is applied to its part, row by row. Therefore not
   diffusers' `fuse_qkv_projections`: it makes layers of other names, past which adapters would change nothing.
4. Layers get new parameters if their weights do not lie side by side yet, and another model's modules keep the old ones: whoever holds
   a model already (a captured graph of it, too) is not touched. Models that are loaded later share the weights if these were laid
   together before they were first shown to others: `lay_together`, which changes nothing but addresses.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention
from torch import nn

from collodion.wire.jobs import Optimization
from collodion.worker.adapters.sites import changed, own_class
from collodion.worker.optimize.errors import Unsuitable

_SELF = ("to_q", "to_k", "to_v")
_CROSS = ("to_k", "to_v")
_ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")
_GROUPS = "projected_together"


def fuse_projections(denoiser: nn.Module) -> Optimization:
    """Before adapters' sites are attached or after; on the loading thread. Raises Unsuitable if no projections can be fused."""
    attentions = list(_attentions(denoiser))
    if not attentions:
        raise Unsuitable("the model has no attention whose projections are known")
    fused = products = moved = 0
    for attention in attentions:
        groups = {names: _lay(attention, names) for names in _wanted(attention)}
        if joined := tuple(names for names, how in groups.items() if how is not None):
            _attach(attention, joined)
            fused += 1
            products += len(joined)
            moved += sum(how is True for how in groups.values())
    if not fused:
        raise Unsuitable(
            "the weights of its projections cannot lie side by side: they are quantised, or differ in kind"
        )
    detail = f"{products} products in {fused} of {len(attentions)} attentions"
    if moved:
        detail += "; their weights are this model's own from now on"
    return Optimization("fuse_qkv", "on", detail)


def lay_together(denoiser: nn.Module) -> int:
    """Lays the weights of layers that may be fused side by side, which changes no number. Returns how many groups it moved.

    For whoever loads a model, before anyone shares its parameters: then models that are loaded later share them, fused or not.
    """
    return sum(_lay(attention, names) is True for attention in _attentions(denoiser) for names in _wanted(attention))


class _Projected:
    """An attention as its processor sees it for one call: a layer of a group computes all of the group.

    Who asks for a layer's output of another input than the group's first layer read gets it from the layer itself.
    """

    def __init__(self, attention: Any) -> None:
        self._attention = attention
        self._parts: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def __getattr__(self, name: str) -> Any:
        attention = self._attention
        return partial(self._project, name) if name in attention.__dict__[_GROUPS] else getattr(attention, name)

    def _project(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        if name in self._parts and self._parts[name][0] is inputs:
            return self._parts[name][1]
        names = self._attention.__dict__[_GROUPS][name]
        layers = [getattr(self._attention, each) for each in names]
        if name != names[0]:
            outputs: torch.Tensor = getattr(self._attention, name)(inputs)
            return outputs
        parts = _product(layers, inputs)
        self._parts.update({each: (inputs, part) for each, part in zip(names, parts, strict=True)})
        return parts[0]


class _Together:
    """Put before an attention's class."""


_kinds: dict[type[nn.Module], type[Any]] = {}


def _together(kind: type[nn.Module]) -> type[Any]:
    if kind not in _kinds:
        own = kind.forward  # as a function: diffusers marks its class such that Dynamo cannot follow it to its methods

        def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return own(_Projected(self), *args, **kwargs)

        told = {"__module__": kind.__module__, "__doc__": kind.__doc__, "forward": forward}
        _kinds[kind] = type(kind.__name__, (_Together, kind), told)
    return _kinds[kind]


def _attach(attention: nn.Module, groups: Sequence[tuple[str, ...]]) -> None:
    if not isinstance(attention, _Together):
        attention.__class__ = _together(type(attention))
    vars(attention)[_GROUPS] = {name: names for names in groups for name in names}


def _attentions(denoiser: nn.Module) -> Iterator[nn.Module]:
    for module in denoiser.modules():
        if isinstance(module, Attention | AttentionModuleMixin) and hasattr(module, "to_q"):
            yield module


def _wanted(attention: Any) -> Iterator[tuple[str, ...]]:
    """The groups of layers that read the same input."""
    crossed = getattr(attention, "is_cross_attention", False)
    for names in (_CROSS if crossed else _SELF, _ADDED):
        if all(getattr(attention, name, None) is not None for name in names):
            yield names


def _product(layers: Sequence[Any], inputs: torch.Tensor) -> list[torch.Tensor]:
    """Each layer's output, with what is applied to it: (…, out) of (…, in)."""
    first = layers[0]
    widths = [layer.out_features for layer in layers]
    reach = first.in_features
    weight = first.weight.as_strided((sum(widths), reach), (reach, 1))
    bias = None if first.bias is None else first.bias.as_strided((sum(widths),), (1,))
    parts = F.linear(inputs, weight, bias).split_with_sizes(widths, dim=-1)
    return [changed(layer, inputs, part) for layer, part in zip(layers, parts, strict=True)]


def _lay(attention: nn.Module, names: Sequence[str]) -> bool | None:
    """Sees to it that these layers' weights lie side by side. True: they were moved; False: they did; None: they cannot."""
    layers: list[Any] = [getattr(attention, name) for name in names]
    if not all(map(_is_plain, layers)):
        return None
    alike = {(layer.in_features, layer.bias is None, layer.weight.dtype, layer.weight.device) for layer in layers}
    if len(alike) != 1:
        return None
    sides = ["weight"] if layers[0].bias is None else ["weight", "bias"]
    apart = [side for side in sides if not _adjoin([getattr(layer, side) for layer in layers])]
    for side in apart:
        _move([(layer, side) for layer in layers])
    return bool(apart)


def _is_plain(layer: nn.Module) -> bool:
    """Whether its output is what nn.Linear makes of plain tensors."""
    if own_class(layer) is not nn.Linear:
        return False
    return all(type(tensor) is nn.Parameter and type(tensor.data) is torch.Tensor for tensor in layer.parameters())


def _adjoin(tensors: Sequence[torch.Tensor]) -> bool:
    return all(tensor.is_contiguous() for tensor in tensors) and all(
        one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        and one.storage_offset() + one.numel() == other.storage_offset()
        for one, other in pairwise(tensors)
    )


def _move(owned: Sequence[tuple[nn.Module, str]]) -> None:
    """Gives the modules new parameters of these names, the parts of one tensor."""
    tensors: list[Any] = [owner._parameters[side] for owner, side in owned]
    with torch.inference_mode(False), torch.no_grad():
        parts = torch.cat(tensors).split_with_sizes([len(tensor) for tensor in tensors])
        for (owner, side), part in zip(owned, parts, strict=True):
            owner._parameters[side] = nn.Parameter(part, requires_grad=False)
