"""Transformers whose blocks bring forward two streams, the picture's tokens and the texts': FLUX, Stable Diffusion 3, Qwen-Image.

Reference: the `forward` of diffusers' classes; which parts, and that a difference is kept: diffusers' first-block cache
(`diffusers.hooks.first_block_cache`), after ParaAttention. Only the picture's stream goes on to the tail, so only that one is kept.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.step_cache.parts import Carried, Parts

_LEAST = 2  # blocks


@dataclass(frozen=True, eq=False, kw_only=True)
class Streams(Carried):
    """hidden, texts: (rows, tokens, width). times: (rows, width), embedded with all that is added to them.

    mask: bool (rows, tokens) of texts, if they differ in length. positions: of both streams' tokens; of all rows alike. size: (height,
    width) of the latents, where the tail has to know it.
    """

    hidden: torch.Tensor
    texts: torch.Tensor
    times: torch.Tensor
    mask: torch.Tensor | None = None
    positions: tuple[torch.Tensor, ...] | None = None
    size: tuple[int, int] = field(default=(0, 0))


class StreamParts(Parts[Streams]):
    """See the module. Raises Unsuitable for a transformer of one block."""

    def __init__(self, transformer: Any) -> None:
        self._transformer = transformer
        self._blocks = self.blocks(transformer)
        if len(self._blocks) < _LEAST:
            raise Unsuitable(f"its transformer has fewer than {_LEAST} blocks")

    def blocks(self, transformer: Any) -> Sequence[Any]:
        """All, in the order in which they are called."""
        return list(transformer.transformer_blocks)

    @abstractmethod
    def embedded(self, call: Mapping[str, Any]) -> Streams:
        """What the first block is given."""

    def beside(self, streams: Streams) -> dict[str, Any]:
        """What a block is given beside the streams and the times."""
        return {"image_rotary_emb": streams.positions}

    def shallow(self, call: Mapping[str, Any]) -> tuple[Streams, torch.Tensor]:
        """See Parts."""
        given = self.embedded(call)
        streams = self._through(self._blocks[:1], given)
        return streams, streams.hidden - given.hidden

    def deep(self, carried: Streams) -> torch.Tensor:
        """See Parts. Returns (rows, tokens, width)."""
        return self._through(self._blocks[1:], carried).hidden

    def tail(self, carried: Streams, deep: torch.Tensor) -> Any:
        """See Parts."""
        return self._transformer.proj_out(self._transformer.norm_out(deep, carried.times))

    def kept(self, carried: Streams, deep: torch.Tensor) -> torch.Tensor:
        """See Parts."""
        return deep - carried.hidden

    def again(self, carried: Streams, kept: torch.Tensor) -> torch.Tensor:
        """See Parts."""
        return kept + carried.hidden

    def _through(self, blocks: Sequence[Any], streams: Streams) -> Streams:
        hidden, texts = streams.hidden, streams.texts
        for block in blocks:
            texts, hidden = block(
                hidden_states=hidden, encoder_hidden_states=texts, temb=streams.times, **self.beside(streams)
            )
        return replace(streams, hidden=hidden, texts=texts)


class FluxParts(StreamParts):
    """Reference: FluxTransformer2DModel."""

    def blocks(self, transformer: Any) -> Sequence[Any]:
        """See StreamParts."""
        return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]

    def embedded(self, call: Mapping[str, Any]) -> Streams:
        """See StreamParts."""
        transformer, guidance = self._transformer, call["guidance"]
        hidden = transformer.x_embedder(call["hidden_states"])
        scalars = [call["timestep"].to(hidden.dtype) * 1000]
        if guidance is not None:
            scalars.append(guidance.to(hidden.dtype) * 1000)
        return Streams(
            hidden=hidden,
            times=transformer.time_text_embed(*scalars, call["pooled_projections"]),
            texts=transformer.context_embedder(call["encoder_hidden_states"]),
            positions=transformer.pos_embed(torch.cat((call["txt_ids"], call["img_ids"]), dim=0)),
        )


class StableDiffusion3Parts(StreamParts):
    """Reference: SD3Transformer2DModel."""

    def embedded(self, call: Mapping[str, Any]) -> Streams:
        """See StreamParts."""
        transformer, latents = self._transformer, call["hidden_states"]
        return Streams(
            hidden=transformer.pos_embed(latents).contiguous(),
            times=transformer.time_text_embed(call["timestep"], call["pooled_projections"]),
            texts=transformer.context_embedder(call["encoder_hidden_states"]),
            size=(latents.shape[2], latents.shape[3]),
        )

    def beside(self, streams: Streams) -> dict[str, Any]:  # noqa: ARG002 - its tokens know their places
        """See StreamParts."""
        return {}

    def tail(self, carried: Streams, deep: torch.Tensor) -> Any:
        """See Parts. Tokens become latents again."""
        tokens, patch = super().tail(carried, deep), self._transformer.config.patch_size
        height, width = (side // patch for side in carried.size)
        channels = self._transformer.out_channels
        patches = tokens.reshape(len(tokens), height, width, patch, patch, channels)
        return torch.einsum("nhwpqc->nchpwq", patches).reshape(len(tokens), channels, height * patch, width * patch)


class QwenImageParts(StreamParts):
    """Reference: QwenImageTransformer2DModel, of a model that draws pictures from texts (see `families.qwen_image`)."""

    def embedded(self, call: Mapping[str, Any]) -> Streams:
        """See StreamParts."""
        transformer, mask = self._transformer, call["encoder_hidden_states_mask"]
        hidden = transformer.img_in(call["hidden_states"])
        texts = transformer.txt_in(transformer.txt_norm(call["encoder_hidden_states"]))
        times = transformer.time_text_embed(call["timestep"].to(hidden.dtype), hidden, None)
        tokens = texts.shape[1]
        positions = transformer.pos_embed(call["img_shapes"], max_txt_seq_len=tokens, device=hidden.device)
        return Streams(hidden=hidden, texts=texts, times=times, mask=mask, positions=positions)

    def beside(self, streams: Streams) -> dict[str, Any]:
        """See StreamParts."""
        return {**super().beside(streams), "encoder_hidden_states_mask": streams.mask}
