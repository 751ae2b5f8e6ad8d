"""Fused projections: one matrix product where an attention's query, key and value read the same input.

1. The weights lie side by side in one piece of memory; each layer's parameter is a view of its rows. Nothing is held twice, the state
   dict is as it was, and the matrix of all of them is read from where the first layer's weights begin (`as_strided`), so that it is
   gone when they are.
2. An attention's class is exchanged for one whose `forward` runs on itself behind `_Projected`: the processor calls `to_q`, `to_k` and
   `to_v` as ever, the first call computes all of them, and the others are handed their part. Processors stay as they are.
3. The layers remain the sites of adapters: what is applied to a layer for a call is applied to its part, row by row. Therefore not
   diffusers' `fuse_qkv_projections`: it makes layers of other names, past which adapters would change nothing.
4. A layer keeps its parameter, and only where that lies is changed, once: models that share parameters go on sharing them, and the next
   one finds them side by side. So weights are shared only by models that are all to be fused or none (`Plan.weights`): what was
   captured with an address reads from it for good.
"""

import threading
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
_laying = threading.Lock()


def fuse_projections(denoiser: nn.Module) -> Optimization:
    """Before adapters' sites are attached or after; on the loading thread. Raises Unsuitable if no projections can be fused."""
    attentions = list(_attentions(denoiser))
    if not attentions:
        raise Unsuitable("the model has no attention whose projections are known")
    fused = products = 0
    for attention in attentions:
        if groups := [names for names in _wanted(attention) if _lay(attention, names)]:
            _attach(attention, groups)
            fused += 1
            products += len(groups)
    if not fused:
        raise Unsuitable(
            "the weights of its projections cannot lie side by side: they are quantised, or differ in kind"
        )
    return Optimization("fuse_qkv", "on", f"{products} products in {fused} of {len(attentions)} attentions")


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


def _lay(attention: nn.Module, names: Sequence[str]) -> bool:
    """Sees to it that these layers' weights lie side by side. False: they cannot."""
    layers: list[Any] = [getattr(attention, name) for name in names]
    if not all(map(_is_plain, layers)):
        return False
    alike = {
        (layer.in_features, layer.bias is None, layer.weight.dtype, layer.weight.device, layer.weight.is_inference())
        for layer in layers
    }
    if len(alike) != 1:
        return False
    sides = ["weight"] if layers[0].bias is None else ["weight", "bias"]
    with _laying:  # two models that share them may be loaded at once
        for tensors in ([getattr(layer, side) for layer in layers] for side in sides):
            if not _adjoin(tensors):
                _move(tensors)
    return True


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


def _move(tensors: Sequence[torch.Tensor]) -> None:
    """Makes these parameters the parts of one tensor."""
    with torch.inference_mode(tensors[0].is_inference()), torch.no_grad():
        parts = torch.cat(list(tensors)).split_with_sizes([len(tensor) for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.data = part
