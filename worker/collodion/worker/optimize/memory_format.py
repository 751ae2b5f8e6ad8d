"""How the tensors of convolutions lie in memory.

1. A convolution whose weights lie channels last makes outputs that do, whatever it is given, so the weights alone decide.
2. A module gets new parameters of the same numbers: another model that shares the old ones keeps them as they were.
"""

import torch
from torch import nn

from collodion.wire.jobs import Optimization
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.wishes import MemoryFormat

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the axes of the weights: convolutions over pictures, and over films."""


def use_memory_format(denoiser: nn.Module, vae: nn.Module, memory_format: MemoryFormat) -> Optimization:
    """Lays the weights of both models' convolutions so. `auto` leaves them contiguous, as they were read.

    Before adapters are attached or after. Raises Unsuitable if the denoiser has no convolution that would read its neighbours.
    """
    if memory_format is not MemoryFormat.CHANNELS_LAST:
        return Optimization("memory_format", MemoryFormat.CONTIGUOUS.value, "as they were read")
    if not any(_overlaps(module) for module in denoiser.modules()):
        raise Unsuitable(
            "memory_format=channels-last: the denoiser is a transformer, without convolutions that gain by it"
        )
    said = [_said("denoiser", denoiser), _said("VAE", vae)]
    return Optimization("memory_format", memory_format.value, ", ".join(said) + "; those of one pixel lie both ways")


def _said(what: str, model: nn.Module) -> str:
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)]
    changed = sum(map(_lay, convolutions))
    return f"{changed} of {len(convolutions)} convolutions of the {what}"


def _overlaps(module: nn.Module) -> bool:
    """Not so the one that cuts a transformer's picture into patches."""
    return isinstance(module, nn.Conv2d) and any(
        size > step for size, step in zip(module.kernel_size, module.stride, strict=True)
    )


def _lay(convolution: nn.Conv2d | nn.Conv3d) -> bool:
    """Whether that changed anything."""
    weight = convolution.weight
    wanted = _FORMATS[weight.ndim]
    if weight.is_contiguous(memory_format=wanted):
        return False
    with torch.inference_mode(False), torch.no_grad():
        convolution.weight = nn.Parameter(weight.to(memory_format=wanted), requires_grad=weight.requires_grad)
    return True
