"""Processors for attentions that go past diffusers' dispatcher: UNets' and Stable Diffusion 3's call torch's SDPA themselves.

Line by line diffusers' AttnProcessor2_0 and JointAttnProcessor2_0 (0.42), but for the one call; with SDPA they compute the same bits.
The names of what `__call__` is given count: diffusers' attentions look them up.
"""

from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn


class UnetAttention:
    """Self- and cross-attention. `masked_backend` runs it where there is a mask: prompts of mixed lengths in cross-attention."""

    def __init__(self, backend: AttentionBackendName, masked_backend: AttentionBackendName) -> None:
        self._attention_backend = backend
        self.masked_backend = masked_backend

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """hidden_states: (rows, tokens, width) or (rows, width, H, W). attention_mask: a bias, (rows, 1, tokens that are read)."""
        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if residual.ndim == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        attended = self._attended(attn, hidden_states, encoder_hidden_states, attention_mask)
        outputs: torch.Tensor = _projected_out(attn, attended)
        if residual.ndim == 4:
            outputs = outputs.transpose(-1, -2).reshape(residual.shape)
        if attn.residual_connection:
            outputs = outputs + residual
        factor: float = attn.rescale_output_factor
        return outputs / factor

    def _attended(
        self, attn: Any, inputs: torch.Tensor, context: torch.Tensor | None, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """(rows, tokens, width)."""
        query = attn.to_q(inputs)
        if context is None:
            context = inputs
        elif attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        key, value = attn.to_k(context), attn.to_v(context)
        query, key, value = (_by_head(attn, each) for each in (query, key, value))
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        backend = self._attention_backend
        if mask is not None:
            backend = self.masked_backend
            mask = attn.prepare_attention_mask(mask, context.shape[1], len(context))
            mask = mask.view(len(context), attn.heads, -1, mask.shape[-1])
        attended: torch.Tensor = dispatch_attention_fn(query, key, value, attn_mask=mask, backend=backend)
        return attended.flatten(2).to(query.dtype)


class JointAttention:
    """Attention over a picture's tokens and a text's together, or over a picture's alone. No masks."""

    def __init__(self, backend: AttentionBackendName) -> None:
        self._attention_backend = backend

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,  # noqa: ARG002 - as diffusers' own, which does not look at it
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Both inputs: (rows, tokens, width). Returns one output for each of them."""
        query, key, value = (_by_head(attn, layer(hidden_states)) for layer in (attn.to_q, attn.to_k, attn.to_v))
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        if encoder_hidden_states is not None:
            texts = self._texts(attn, encoder_hidden_states)
            query, key, value = (
                torch.cat([one, other], dim=1) for one, other in zip((query, key, value), texts, strict=True)
            )
        attended = dispatch_attention_fn(query, key, value, backend=self._attention_backend)
        attended = attended.flatten(2).to(query.dtype)
        if encoder_hidden_states is None:
            return _projected_out(attn, attended)
        tokens = hidden_states.shape[1]
        text = attended[:, tokens:]
        if not attn.context_pre_only:
            text = attn.to_add_out(text)
        return _projected_out(attn, attended[:, :tokens]), text

    def _texts(self, attn: Any, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key, value."""
        layers = attn.add_q_proj, attn.add_k_proj, attn.add_v_proj
        query, key, value = (_by_head(attn, layer(texts)) for layer in layers)
        if attn.norm_added_q is not None:
            query = attn.norm_added_q(query)
        if attn.norm_added_k is not None:
            key = attn.norm_added_k(key)
        return query, key, value


def _by_head(attn: Any, tensor: torch.Tensor) -> torch.Tensor:
    """(rows, tokens, width) to (rows, tokens, heads, width of a head)."""
    return tensor.view(*tensor.shape[:-1], attn.heads, -1)


def _projected_out(attn: Any, attended: torch.Tensor) -> torch.Tensor:
    outputs: torch.Tensor = attn.to_out[1](attn.to_out[0](attended))
    return outputs
