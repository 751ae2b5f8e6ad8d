"""A CLIP text encoder's call on a batch of chunks, and the weights on what comes out.

1. The call is that of diffusers' `encode_prompt` for the same ids: the last hidden states, after the final norm (SD 1 and 2), or
   those before the last layer, without it (SDXL).
2. Vectors of embeddings are put into the encoder's input for the rows that have them, while the call lasts. Neither the vocabulary
   nor the table of token embeddings changes, so no other prompt can see them.
3. Weights multiply the states of their tokens; then the whole chunk is scaled so that its mean is what it was without them. This is what
   AUTOMATIC1111's web interface calls "original" emphasis, its default. Pooled states have no weights.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from collodion.worker.prompting.chunks import Chunk


class Encoded(NamedTuple):
    """`states`: (chunks, tokens, width). `pooled`: (chunks, width), None from an encoder that projects nothing."""

    states: torch.Tensor
    pooled: torch.Tensor | None


class TextEncoder:
    """One CLIP text encoder, where diffusers has put it. `penultimate`: which states a model reads."""

    def __init__(self, model: Any, penultimate: bool) -> None:
        self.model = model
        self._penultimate = penultimate
        self._masked = not penultimate and bool(getattr(model.config, "use_attention_mask", False))

    @property
    def width(self) -> int:
        """Of its token embeddings."""
        return int(self.model.config.hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    def run(self, chunks: Sequence[Chunk]) -> Encoded:
        """Encodes the chunks, one row each, in one call."""
        place = self.model.device
        ids = torch.tensor([chunk.ids for chunk in chunks], dtype=torch.long)
        mask = None
        if self._masked:
            read = torch.tensor([chunk.read for chunk in chunks])
            mask = (torch.arange(ids.shape[1]) < read[:, None]).long().to(place, non_blocking=True)
        with self._inserted(chunks):
            out = self.model(
                ids.to(place, non_blocking=True), attention_mask=mask, output_hidden_states=self._penultimate
            )
        return Encoded(out.hidden_states[-2] if self._penultimate else out.last_hidden_state, out.get("text_embeds"))

    @contextmanager
    def _inserted(self, chunks: Sequence[Chunk]) -> Iterator[None]:
        inserts = [(row, insert) for row, chunk in enumerate(chunks) for insert in chunk.inserts]

        def put(_module: Any, _arguments: Any, embedded: torch.Tensor) -> torch.Tensor:
            for row, insert in inserts:
                end = insert.place + len(insert.vectors)
                embedded[row, insert.place : end] = insert.vectors.to(embedded, non_blocking=True)
            return embedded

        if not inserts:
            yield
            return
        hook = self.model.get_input_embeddings().register_forward_hook(put)
        try:
            yield
        finally:
            hook.remove()


def weighed(states: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """A chunk's states (tokens, width) with their weights on; the same tensor if there are none. The arithmetic is float32."""
    if not weights:
        return states
    factors = torch.tensor(weights, dtype=torch.float32).to(states.device, non_blocking=True)
    before = states.float()
    after = before * factors[:, None]
    scale = before.mean() / after.mean()
    # A mean of zero has nothing to be restored by.
    return (after * torch.where(scale.isfinite(), scale, torch.ones_like(scale))).to(states.dtype)
