"""Attention's kernels under the names of diffusers' dispatcher.

1. The dispatcher's own functions for SDPA's kernels force one with `torch.nn.attention.sdpa_kernel`, which sets and resets switches of the
   whole process: another thread's attention would find them set, and two such threads may leave them so. Ours call the kernel itself.
2. Its function for xFormers takes a mask of bools for a bias, and does not align it. Ours hands over a bias, in memory as the
   kernels want it.
3. Ours are put in their places once, for the whole process, and leave to the others what no denoiser asks for (causal masks, dropout,
   groups of queries, gradients); xFormers' only once somebody has asked for it. Which one a model uses is said by its processors alone,
   never by the dispatcher's current backend.
"""

import importlib
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName

from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.wishes import Attention

Kernel: TypeAlias = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, float | None], torch.Tensor
]
"""query, key, value: (rows, tokens, heads, width); mask: 4 axes, bools or a bias, or None; scale. Returns what query is."""

NAMES = {
    Attention.AUTO: AttentionBackendName.NATIVE,
    Attention.SDPA: AttentionBackendName.NATIVE,
    Attention.SDPA_FLASH: AttentionBackendName._NATIVE_FLASH,
    Attention.SDPA_EFFICIENT: AttentionBackendName._NATIVE_EFFICIENT,
    Attention.SDPA_CUDNN: AttentionBackendName._NATIVE_CUDNN,
    Attention.SDPA_MATH: AttentionBackendName._NATIVE_MATH,
    Attention.XFORMERS: AttentionBackendName.XFORMERS,
    Attention.FLASH: AttentionBackendName.FLASH,
    Attention.FLASH_3: AttentionBackendName._FLASH_3,
    Attention.SAGE: AttentionBackendName.SAGE,
}
_EFFICIENT_ALIGNMENT = 16  # elements of a mask's row, of any dtype
_XFORMERS_ALIGNMENT = 8
_FLASH_ALIGNMENT = 8  # elements of a head
_OURS = "collodion"
_registry: Any = attention_dispatch._AttentionBackendRegistry
_lock = threading.Lock()
_memory_efficient: Callable[..., torch.Tensor] | None = None


def dispatched(backend: Attention) -> AttentionBackendName:
    """Its name in the dispatcher, where it is ready to be called. Raises Unsuitable if its package is not there."""
    name = NAMES[backend]
    if backend is Attention.XFORMERS:
        _find_xformers()
    else:
        try:
            attention_dispatch._check_attention_backend_requirements(name)
        except RuntimeError as error:
            raise Unsuitable(f"attention={backend}: {error}") from error
    with _lock:
        for each, kernel in _KERNELS.items():
            there = each is not AttentionBackendName.XFORMERS or _memory_efficient is not None
            if there and _OURS not in vars(_registry._backends[each]):
                _put(each, kernel)
    return name


def _find_xformers() -> None:
    global _memory_efficient
    try:
        _memory_efficient = importlib.import_module("xformers.ops").memory_efficient_attention
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise Unsuitable(f"attention=xformers: its package cannot be imported: {error}") from error


def _put(name: AttentionBackendName, kernel: Kernel) -> None:
    others = _registry._backends[name]

    def attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        return_lse: bool = False,
        _parallel_config: Any = None,
    ) -> Any:
        learns = query.requires_grad or key.requires_grad or value.requires_grad  # ours keep nothing for that
        if dropout_p or is_causal or enable_gqa or return_lse or _parallel_config is not None or learns:
            more = (dropout_p, is_causal, scale, enable_gqa, return_lse, _parallel_config)
            return others(query, key, value, attn_mask, *more)
        if attn_mask is not None and attn_mask.ndim == 2:
            attn_mask = attn_mask[:, None, None, :]
        return kernel(query, key, value, attn_mask, scale)

    vars(attention)[_OURS] = True
    _registry.register(name, constraints=_registry._constraints[name])(attention)


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    if mask is not None:
        raise ValueError("the flash kernel takes no mask")
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))
    if query.device.type == "cpu":
        outputs, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scale)
        return outputs.transpose(1, 2)  # type: ignore[no-any-return]
    width = query.shape[-1]
    padding = -width % _FLASH_ALIGNMENT
    if padding:
        query, key, value = (F.pad(each, (0, padding)) for each in (query, key, value))
    own = width**-0.5 if scale is None else scale
    outputs = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=own)[0]
    return outputs[..., :width].transpose(1, 2)  # type: ignore[no-any-return]


def _efficient(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    bias = None if mask is None else _bias(mask, query, key, _EFFICIENT_ALIGNMENT)
    each = (one.transpose(1, 2) for one in (query, key, value))
    outputs = torch.ops.aten._scaled_dot_product_efficient_attention(*each, bias, False, scale=scale)[0]
    return outputs.transpose(1, 2)  # type: ignore[no-any-return]


def _cudnn(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    bias = None if mask is None else _bias(mask, query, key, _EFFICIENT_ALIGNMENT)
    each = (one.transpose(1, 2).contiguous() for one in (query, key, value))
    outputs = torch.ops.aten._scaled_dot_product_cudnn_attention(*each, bias, False, scale=scale)[0]
    return outputs.transpose(1, 2)  # type: ignore[no-any-return]


def _math(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    bias = None if mask is None else _bias(mask, query, key)
    each = (one.transpose(1, 2) for one in (query, key, value))
    outputs = torch.ops.aten._scaled_dot_product_attention_math(*each, bias, scale=scale)[0]
    return outputs.transpose(1, 2)  # type: ignore[no-any-return]


def _xformers(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    assert _memory_efficient is not None
    bias = None if mask is None else _bias(mask, query, key, _XFORMERS_ALIGNMENT)
    return _memory_efficient(query, key, value, attn_bias=bias, scale=scale)


def _bias(mask: torch.Tensor, query: torch.Tensor, key: torch.Tensor, alignment: int = 1) -> torch.Tensor:
    """(rows, heads, tokens, tokens that are read), of the query's dtype, each row of it beginning at a multiple of `alignment`."""
    if mask.dtype is torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, float("-inf"))
    mask = mask.to(query.dtype)
    read = mask.shape[-1]
    if padding := -read % alignment:
        mask = F.pad(mask, (0, padding))[..., :read]
    return mask.expand(len(query), query.shape[2], query.shape[1], key.shape[1])


_KERNELS: dict[AttentionBackendName, Kernel] = {
    AttentionBackendName._NATIVE_FLASH: _flash,
    AttentionBackendName._NATIVE_EFFICIENT: _efficient,
    AttentionBackendName._NATIVE_CUDNN: _cudnn,
    AttentionBackendName._NATIVE_MATH: _math,
    AttentionBackendName.XFORMERS: _xformers,
}
