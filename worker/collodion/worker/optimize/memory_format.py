"""How the tensors of convolutions lie in memory.

1. A convolution whose weights lie channels last makes outputs that do, whatever it is given, so the weights alone decide.
2. A module keeps its parameters, and only how their numbers lie is changed, once: models that share parameters go on sharing them. So
   they are shared only by models that want the same format (`Plan.weights`).
"""

import torch
from torch import nn

from collodion.wire.jobs import Optimization
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.wishes import MemoryFormat


def lay_channels_last(denoiser: nn.Module, vae: nn.Module) -> Optimization:
    """Lays the weights of both models' convolutions so.

    Before adapters are attached or after. Raises Unsuitable if the denoiser has no convolution that would read its neighbours.
    """
    if not any(_overlaps(module) for module in denoiser.modules()):
        raise Unsuitable(
            "memory_format=channels-last: the denoiser is a transformer, without convolutions that gain by it"
        )
    said = f"{_lay_all('denoiser', denoiser)}, {_lay_all('VAE', vae)}; those of one pixel lie both ways"
    return Optimization("memory_format", MemoryFormat.CHANNELS_LAST.value, said)


def _lay_all(what: str, model: nn.Module) -> str:
    """Says how many that were."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    laid = [_lay(convolution.weight) for convolution in convolutions]
    return f"{sum(laid)} of {len(convolutions)} convolutions of the {what}"


def _overlaps(module: nn.Module) -> bool:
    """Not so the one that cuts a transformer's picture into patches."""
    return isinstance(module, nn.Conv2d) and any(
        size > step for size, step in zip(module.kernel_size, module.stride, strict=True)
    )


def _lay(weight: torch.Tensor) -> bool:
    """Whether it lies channels last now, and in no other way: weights of one pixel lie in both."""
    if not weight.is_contiguous(memory_format=torch.channels_last):
        with torch.inference_mode(weight.is_inference()), torch.no_grad():
            weight.data = weight.to(memory_format=torch.channels_last)
    return not weight.is_contiguous()
