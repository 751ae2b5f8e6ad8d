"""Weights of 8 bits, by torchao: the denoiser's large matrices at half the memory of float16. Activations stay in the model's precision.

1. Quantised are the Linear layers of the blocks that the denoiser repeats. What stands outside of them, the first and last projections and
   the embeddings of timesteps and texts, is a few per cent of the weights, and an error there is in every token of every step; what is
   narrower than 64 saves nothing. Convolutions stay: torchao has no weights of 8 bits for them.
2. Every row of a matrix (an output channel) has a scale of its own, so that one large weight coarsens its own row only. In float16 int8 has
   a scale for each 64 weights instead: torchao multiplies by the row's scale after the product, which float16 cannot hold until then.
3. A quantised weight is still a Parameter with the shape and dtype of the one that it replaces: it says `nbytes` of that, too
   (`weights.stored_bytes` says what it takes), and whoever needs its numbers asks `weights.plain`. The one that it replaces is left as it
   is, for it may be another model's as well.
4. Weight-only: each call makes the weights wide again, block by block, or within the compiled product. It saves memory, and time only
   where reading the weights is what takes the time: few rows, compiled.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from collodion.wire.jobs import Optimization
from collodion.worker.optimize import unasked
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.wishes import Quantization
from collodion.worker.weights import stored_bytes

_NARROWEST = 64  # of a matrix's sides
_GROUP = 64
_FP8_FROM = (8, 9)  # compute capability: Ada and Hopper
_UNLISTED_BLOCKS = ("JointTransformerBlock",)  # of SD3, where diffusers does not say which blocks it repeats
_INSTALL = "pip install 'collodion[quantization]'"


def check(kind: Quantization, place: torch.device) -> None:
    """Raises Unsuitable if weights cannot be kept in this kind on this device; imports nothing and needs no model."""
    if kind in (Quantization.AUTO, Quantization.OFF):
        return
    if not unasked.installed("torchao"):
        raise Unsuitable(f"quantize={kind} needs torchao, which is not installed: {_INSTALL}")
    if kind is not Quantization.FP8:
        return
    if place.type != "cuda":
        raise Unsuitable(
            f"quantize=fp8 is for GPUs that compute in it; on a {place.type} int8 takes as much memory, is nearer to the weights and faster"
        )
    capability = torch.cuda.get_device_capability(place)
    if capability < _FP8_FROM:
        raise Unsuitable(
            "quantize=fp8 needs a GPU of compute capability 8.9 or more (Ada, Hopper); "
            f"{torch.cuda.get_device_name(place)} has {capability[0]}.{capability[1]}: int8 takes as much memory"
        )


def quantize(denoiser: nn.Module, kind: Quantization, place: torch.device) -> Optimization:
    """Exchanges the weights of the denoiser's blocks. Before anything reads them: adapters' sites, compiled code, graphs.

    kind: int8 or fp8. Raises Unsuitable; the denoiser is then as it was.
    """
    check(kind, place)
    before = _weight_bytes(denoiser)
    layers = quantizable(denoiser)
    count = quantize_layers(layers, kind)
    linear = sum(isinstance(module, nn.Linear) for module in denoiser.modules())
    if not count:
        raise Unsuitable(
            f"quantize={kind}: none of the {linear} linear layers of this {type(denoiser).__name__} is in a repeated block "
            f"and {_NARROWEST} wide"
        )
    mebibytes = f"{before / 2**20:,.0f} to {_weight_bytes(denoiser) / 2**20:,.0f} MiB"
    return Optimization("quantize", str(kind), f"{count} of {linear} linear layers of the denoiser, {mebibytes}")


def quantizable(denoiser: nn.Module) -> dict[str, nn.Linear]:
    """The layers that are worth it, by path; see the module."""
    names = {*(getattr(denoiser, "_repeated_blocks", None) or ()), *_UNLISTED_BLOCKS}
    blocks = tuple(f"{path}." for path, module in denoiser.named_modules() if type(module).__name__ in names)
    return {
        path: module
        for path, module in denoiser.named_modules()
        if isinstance(module, nn.Linear)
        and path.startswith(blocks)
        and min(module.weight.shape) >= _NARROWEST
        and module.weight.is_floating_point()
    }


def quantize_layers(layers: Mapping[str, nn.Linear], kind: Quantization) -> int:
    """Exchanges the weights of these layers, whatever the device; returns of how many. Raises Unsuitable if torchao cannot do it."""
    try:
        api: Any = unasked.import_hidden("torchao.quantization")
    except ImportError as error:
        raise Unsuitable(f"quantize={kind}: {error}; {_INSTALL}") from error
    done = 0
    with torch.inference_mode(mode=False), torch.no_grad():  # an inference tensor cannot be compiled, nor trained
        for layer in layers.values():
            config = _config(api, kind, layer.weight)
            if config is not None:
                _exchange(api, layer, config)
                done += 1
    return done


def _config(api: Any, kind: Quantization, weight: torch.Tensor) -> Any:
    """How torchao is to quantise a weight; None if it cannot. It is not to change how everything else is compiled."""
    if kind is Quantization.FP8:
        return api.Float8WeightOnlyConfig(granularity=api.PerRow(), set_inductor_config=False)
    if weight.dtype is not torch.float16:
        return api.Int8WeightOnlyConfig(granularity=api.PerRow(), set_inductor_config=False)
    if weight.shape[1] % _GROUP:
        return None
    return api.Int8WeightOnlyConfig(granularity=api.PerGroup(_GROUP), set_inductor_config=False)


def _exchange(api: Any, layer: nn.Linear, config: Any) -> None:
    api.quantize_(layer, config)
    vars(layer).pop(
        "extra_repr", None
    )  # a method that holds its own module, which would have to wait for the garbage collection


def _weight_bytes(module: nn.Module) -> int:
    return sum(map(stored_bytes, module.parameters()))
