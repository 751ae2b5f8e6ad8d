"""Whether a backend computes attention on this device, and how far from the exact result: run, not asked.

Packages that are installed may lack kernels for the device, refuse a head's width, or compute something else. So each is run on random
numbers of the denoiser's heads, dtype and device, and compared with SDPA's plain arithmetic in float32 on the CPU.
"""

from dataclasses import dataclass
from enum import StrEnum

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

from collodion.worker.memory_errors import memory_errors

_ROWS = 2
_SENTENCE = 200  # characters
_PICTURE, _TEXT = 256, 77  # tokens; the sum is a multiple of nothing that kernels like
_BOUNDS = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}
_QUANTISED = {AttentionBackendName.SAGE: 1e-1}
"""Backends that round queries and keys to 8 bits, whatever the dtype."""
_FOREIGN = (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, ImportError, OSError)
"""What packages raise where they cannot run."""


class Masks(StrEnum):
    """What an attention is given where prompts of mixed lengths are in one call."""

    NONE = "none"
    BIAS = "bias"
    BOOLS = "bools"


class Reads(StrEnum):
    """Which tokens' keys and values an attention reads."""

    PICTURE = "picture"
    TEXT = "text"
    BOTH = "both"


@dataclass(frozen=True)
class Shape:
    """What attentions have in common that one run proves. width: of a head."""

    heads: int
    width: int
    reads: Reads
    masks: Masks

    def __str__(self) -> str:
        return f"{self.heads} heads of {self.width}"


@dataclass(frozen=True)
class Proof:
    """What became of one run. difference: from the exact result, as a part of its largest value; None: it did not run, for this reason."""

    difference: float | None
    bound: float
    reason: str = ""

    @property
    def runs(self) -> bool:
        """Whether it came to an end at all."""
        return self.difference is not None

    @property
    def right(self) -> bool:
        """Whether what it computed is attention."""
        return self.difference is not None and self.difference <= self.bound


@torch.inference_mode()
def prove(
    backend: AttentionBackendName, shape: Shape, place: torch.device, dtype: torch.dtype, masked: bool = False
) -> Proof:
    """Runs it once. Waits for the device: for the thread that loads. Raises MemoryError."""
    bound = _QUANTISED.get(backend, _BOUNDS[dtype])
    query, key, value = (each.to(dtype) for each in _numbers(shape))
    mask = _mask(shape, key.shape[1], dtype) if masked else None
    try:
        with memory_errors():
            moved = [each.to(place) for each in (query, key, value)]
            mask_there = None if mask is None else mask.to(place)
            outputs: torch.Tensor = dispatch_attention_fn(*moved, attn_mask=mask_there, backend=backend).float().cpu()
    except _FOREIGN as error:
        return Proof(None, bound, _sentence(error))
    exact = _exact(query, key, value, mask)
    if outputs.shape != exact.shape:
        return Proof(None, bound, f"it gave {tuple(outputs.shape)} for {tuple(exact.shape)}")
    difference = ((outputs - exact).abs().max() / exact.abs().max()).nan_to_num(nan=float("inf"))
    return Proof(float(difference), bound)


def _numbers(shape: Shape) -> list[torch.Tensor]:
    """Query, key, value: float32 (rows, tokens, heads, width)."""
    generator = torch.Generator().manual_seed(0)
    tokens = _PICTURE + _TEXT if shape.reads is Reads.BOTH else _PICTURE
    read = _TEXT if shape.reads is Reads.TEXT else tokens
    return [torch.randn(_ROWS, count, shape.heads, shape.width, generator=generator) for count in (tokens, read, read)]


def _mask(shape: Shape, read: int, dtype: torch.dtype) -> torch.Tensor:
    """(rows, heads or 1, 1, tokens that are read): the second row's text ends in the middle."""
    seen = torch.ones(_ROWS, 1, 1, read, dtype=torch.bool)
    seen[1, ..., _TEXT // 2 : _TEXT] = False
    if shape.masks is Masks.BOOLS:
        return seen
    return ((1 - seen.to(dtype)) * -10000.0).repeat(1, shape.heads, 1, 1)  # as UNets make it


def _exact(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    query, key, value = (each.float().transpose(1, 2) for each in (query, key, value))
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype is torch.bool else scores + mask.float()
    outputs: torch.Tensor = scores.softmax(dim=-1) @ value
    return outputs.transpose(1, 2)


def _sentence(error: BaseException) -> str:
    """The first sentence of what it says, or of its reasons if it lists them on lines of their own, as xFormers does."""
    said, because, reasons = str(error).partition("because:\n")
    lines = [line.strip() for line in (reasons if because else said).splitlines() if line.strip()]
    first = lines[0].partition(". ")[0].rstrip(".:") if lines else ""
    return first[:_SENTENCE] or type(error).__name__
