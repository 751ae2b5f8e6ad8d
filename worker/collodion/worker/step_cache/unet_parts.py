"""A UNet in three: its outermost layers, and all that lies between them.

Reference: UNet2DConditionModel.forward; which part of a UNet may be left out: DeepCache (Ma, Fang and Wang, 2023, section 3.2).

A layer is a resnet with its attention, if it has one. The first one on the way down tells how much has changed; the last two on the way
up see what it made of the present latents, and the latents themselves, through their skip connections.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D, CrossAttnUpBlock2D, DownBlock2D, UpBlock2D

from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.step_cache.parts import Carried, Parts

_TAIL = 2  # layers
_MASKED = -10000.0  # diffusers' own


@dataclass(frozen=True, eq=False, kw_only=True)
class Outermost(Carried):
    """noisy: what conv_in made of the latents. hidden: what the first layer made of that. times: their embedding, with all added to it.

    states: of the texts. mask: what is added to the scores of their tokens, if they differ in length. uneven: whether the latents' sides
    cannot be halved as often as the UNet does, so that its blocks have to be told how large to become again.
    """

    noisy: torch.Tensor
    hidden: torch.Tensor
    times: torch.Tensor
    states: torch.Tensor
    mask: torch.Tensor | None
    uneven: bool


class UnetParts(Parts[Outermost]):
    """See the module. Raises Unsuitable for a UNet that is cut in another way."""

    def __init__(self, unet: Any) -> None:
        first, last = unet.down_blocks[0], unet.up_blocks[-1]
        if not isinstance(first, DownBlock2D | CrossAttnDownBlock2D) or not isinstance(
            last, UpBlock2D | CrossAttnUpBlock2D
        ):
            raise Unsuitable(f"its UNet begins with a {type(first).__name__} and ends with a {type(last).__name__}")
        if unet.config.addition_embed_type not in (None, "text_time") or unet.class_embedding is not None:
            raise Unsuitable("its UNet is given more than texts and sizes")
        self._unet, self._first, self._last = unet, first, last

    def shallow(self, call: Mapping[str, Any]) -> tuple[Outermost, torch.Tensor]:
        """See Parts."""
        unet, sample, mask = self._unet, call["sample"], call["encoder_attention_mask"]
        if unet.config.center_input_sample:
            sample = 2 * sample - 1.0
        states, added = call["encoder_hidden_states"], call.get("added_cond_kwargs")
        times = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=call["timestep"]))
        more = unet.get_aug_embed(emb=times, encoder_hidden_states=states, added_cond_kwargs=added)
        times = times if more is None else times + more
        noisy = unet.conv_in(sample)
        given = Outermost(
            noisy=noisy,
            hidden=noisy,
            times=times if unet.time_embed_act is None else unet.time_embed_act(times),
            states=unet.process_encoder_hidden_states(encoder_hidden_states=states, added_cond_kwargs=added),
            mask=None if mask is None else ((1 - mask.to(sample.dtype)) * _MASKED).unsqueeze(1),
            uneven=any(side % 2**unet.num_upsamplers for side in sample.shape[2:]),
        )
        hidden = _layer(self._first, 0, noisy, given)
        return replace(given, hidden=hidden), hidden - noisy

    def deep(self, carried: Outermost) -> torch.Tensor:
        """See Parts. Returns what the tail's first layer is given: (rows, C, H, W)."""
        hidden, skips = self._down(carried)
        if self._unet.mid_block is not None:
            hidden = self._unet.mid_block(hidden, **_beside(self._unet.mid_block, carried))
        for block in list(self._unet.up_blocks)[:-1]:
            skipped = [skips.pop() for _ in block.resnets]
            hidden = block(
                hidden_states=hidden,
                res_hidden_states_tuple=tuple(reversed(skipped)),
                upsample_size=skips[-1].shape[2:] if carried.uneven else None,
                **_beside(block, carried),
            )
        for number in range(len(self._last.resnets) - _TAIL):
            hidden = _layer(self._last, number, torch.cat([hidden, skips.pop()], dim=1), carried)
        return hidden

    def tail(self, carried: Outermost, deep: torch.Tensor) -> torch.Tensor:
        """See Parts."""
        unet, hidden, layers = self._unet, deep, len(self._last.resnets)
        skips = (carried.hidden, carried.noisy)[-_TAIL:]
        for number, skipped in zip(range(layers - _TAIL, layers), skips, strict=True):
            hidden = _layer(self._last, number, torch.cat([hidden, skipped], dim=1), carried)
        if unet.conv_norm_out:
            hidden = unet.conv_act(unet.conv_norm_out(hidden))
        output: torch.Tensor = unet.conv_out(hidden)
        return output

    def _down(self, carried: Outermost) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """From the second layer to the last one on the way down; its output, and those of all of them for the way up."""
        hidden, skips = carried.hidden, [carried.noisy, carried.hidden]
        for number in range(1, len(self._first.resnets)):
            hidden = _layer(self._first, number, hidden, carried)
            skips.append(hidden)
        for sampler in self._first.downsamplers or ():
            hidden = sampler(hidden)
            skips.append(hidden)
        for block in list(self._unet.down_blocks)[1:]:
            hidden, more = block(hidden_states=hidden, **_beside(block, carried))
            skips.extend(more)
        return hidden, skips


def _layer(block: Any, number: int, hidden: torch.Tensor, carried: Outermost) -> torch.Tensor:
    """One of a block's layers, as the block itself calls it."""
    hidden = block.resnets[number](hidden, carried.times)
    if not _attends(block):
        return hidden
    attended: torch.Tensor = block.attentions[number](
        hidden,
        encoder_hidden_states=carried.states,
        encoder_attention_mask=carried.mask,
        return_dict=False,
    )[0]
    return attended


def _beside(block: Any, carried: Outermost) -> dict[str, torch.Tensor | None]:
    """What a block is given beside its own input."""
    times: dict[str, torch.Tensor | None] = {"temb": carried.times}
    if not _attends(block):
        return times
    return times | {"encoder_hidden_states": carried.states, "encoder_attention_mask": carried.mask}


def _attends(block: Any) -> bool:
    return bool(getattr(block, "has_cross_attention", False))
