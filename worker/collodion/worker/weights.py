"""Weights that may be kept in fewer bits than they say, for whoever asks for their numbers or their memory (`optimize.quantization`)."""

from collections.abc import Iterator

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def stored_bytes(tensor: torch.Tensor) -> int:
    """What a tensor takes of the device's memory: its own, or that of the tensors that a quantised one is made of."""
    return sum(part.nbytes for part in _parts(tensor))


def plain(weight: torch.Tensor) -> torch.Tensor:
    """The numbers of a weight that may be quantised, in the dtype that it says it is of; itself if it is not."""
    if not is_traceable_wrapper_subclass(weight):
        return weight
    numbers: torch.Tensor = weight.dequantize()
    return numbers


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _parts(getattr(tensor, name))
