"""Z-Image's transformer in three. Its blocks have one sequence: the picture's tokens, and behind them the text's.

Reference: ZImageTransformer2DModel.forward, and diffusers' first-block cache. What is measured and kept is the picture's part alone: how
far a text's goes depends on its neighbours' texts, and nothing behind the last block reads it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.step_cache.parts import Carried, Parts

_PATCH, _FRAMES = 2, 1
_ENDS = f"{_PATCH}-{_FRAMES}"  # the name of the layers that embed such patches, and make them
_LEAST = 2  # blocks


@dataclass(frozen=True, eq=False, kw_only=True)
class Tokens(Carried):
    """hidden: (rows, tokens, width), the picture's first, `picture` many. times: (rows, width). turns: what the places of tokens turn their
    queries and keys by, complex (rows, tokens, width). mask: bool (rows, tokens), if texts differ in length. sizes: (F, H, W) by row.
    """

    hidden: torch.Tensor
    times: torch.Tensor
    turns: torch.Tensor
    mask: torch.Tensor | None
    picture: int
    sizes: Sequence[tuple[int, int, int]]


class ZImageParts(Parts[Tokens]):
    """See the module. Raises Unsuitable for a transformer of one block, and for one that edits pictures."""

    def __init__(self, transformer: Any) -> None:
        if len(transformer.layers) < _LEAST:
            raise Unsuitable(f"its transformer has fewer than {_LEAST} blocks")
        if transformer.siglip_embedder is not None:
            raise Unsuitable("its transformer reads pictures, too")
        self._transformer = transformer

    def shallow(self, call: Mapping[str, Any]) -> tuple[Tokens, torch.Tensor]:
        """See Parts."""
        given = self._embedded(call)
        hidden = self._through(list(self._transformer.layers)[:1], given)
        picture = given.picture
        return replace(given, hidden=hidden), hidden[:, :picture] - given.hidden[:, :picture]

    def deep(self, carried: Tokens) -> torch.Tensor:
        """See Parts. Returns (rows, tokens, width)."""
        return self._through(list(self._transformer.layers)[1:], carried)

    def tail(self, carried: Tokens, deep: torch.Tensor) -> Any:
        """See Parts."""
        patches = self._transformer.all_final_layer[_ENDS](deep, c=carried.times)
        return self._transformer.unpatchify(list(patches.unbind(dim=0)), carried.sizes, _PATCH, _FRAMES)

    def kept(self, carried: Tokens, deep: torch.Tensor) -> torch.Tensor:
        """See Parts."""
        return deep[:, : carried.picture] - carried.hidden[:, : carried.picture]

    def again(self, carried: Tokens, kept: torch.Tensor) -> torch.Tensor:
        """See Parts."""
        picture, text = carried.hidden[:, : carried.picture], carried.hidden[:, carried.picture :]
        return torch.cat([kept + picture, text], dim=1)

    def _embedded(self, call: Mapping[str, Any]) -> Tokens:
        """What the first block is given."""
        model, device = self._transformer, call["x"][0].device
        times = model.t_embedder(call["t"] * model.t_scale).type_as(call["x"][0])
        patched = model.patchify_and_embed(call["x"], call["cap_feats"], _PATCH, _FRAMES)
        pictures, texts, sizes, picture_places, text_places, picture_filled, text_filled = patched
        lengths = [len(one) for one in pictures]
        embedded = model.all_x_embedder[_ENDS](torch.cat(pictures, dim=0)).split(lengths, dim=0)
        x, x_turns, x_mask, _, _ = model._prepare_sequence(
            list(embedded), picture_places, picture_filled, model.x_pad_token, None, device
        )
        for block in model.noise_refiner:
            x = block(x, x_mask, x_turns, times, None, None, None)
        text_lengths = [len(one) for one in texts]
        embedded = model.cap_embedder(torch.cat(texts, dim=0)).split(text_lengths, dim=0)
        cap, cap_turns, cap_mask, _, _ = model._prepare_sequence(
            list(embedded), text_places, text_filled, model.cap_pad_token, None, device
        )
        for block in model.context_refiner:
            cap = block(cap, cap_mask, cap_turns)
        ones = (x, x_turns, lengths, None, cap, cap_turns, text_lengths, None, *[None] * 4)
        hidden, turns, mask, _ = model._build_unified_sequence(*ones, False, device)
        return Tokens(hidden=hidden, times=times, turns=turns, mask=mask, picture=lengths[0], sizes=sizes)

    def _through(self, blocks: Sequence[Any], tokens: Tokens) -> torch.Tensor:
        hidden = tokens.hidden
        for block in blocks:
            hidden = block(hidden, tokens.mask, tokens.turns, tokens.times, None, None, None)
        return hidden
