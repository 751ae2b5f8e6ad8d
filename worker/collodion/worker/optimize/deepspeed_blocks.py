"""DeepSpeed's fused inference kernels in the transformer blocks of a UNet: half precision, CUDA, Triton.

Whole-pipeline injection (`deepspeed.init_inference`, `generic_injection`) fails with today's transformers, and captures CUDA graphs of
its own. So the blocks are found by a policy of ours (`deepspeed_policy`), remade (`deepspeed_modules`) and put in place one by one; graphs
stay ours.

1. One block of every kind is compared with the block that it replaces before any is replaced, in all the ways that its kernels are
   specialised: a kernel that is wrong on this device is refused, and none is compiled, loaded or allocated later, in a graph's capture.
2. What was replaced is counted. Nothing replaced is an error.
3. An injected block raises RuntimeError for a mask, which DeepSpeed would drop without a word: rows whose prompts have different
   lengths cannot share a call (`Optimized.takes_masks`). The layers that adapters change are no longer there (`Plan.loras`).

Written without a GPU at hand.
"""

from collections.abc import Iterator, Sequence

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

from collodion.wire.jobs import Optimization
from collodion.worker.optimize.deepspeed_kernels import Kernels, load_kernels
from collodion.worker.optimize.deepspeed_modules import injected
from collodion.worker.optimize.deepspeed_policy import Place, Survey, survey
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.precision import name_of

_FARTHEST = 2e-2  # of what a block adds to its input, relative to the largest of it; float16 rounds at 1e-3
_TEXT_TOKENS = 77
_ROWS = (1, 2, 16)  # Triton makes code of its own for 1 and for multiples of 16
_TOKENS = (64, 128, 72)  # its kernel in blocks of 64 and of 128, and torch's attention


def inject_deepspeed(denoiser: nn.Module, place: torch.device, dtype: torch.dtype) -> Optimization:
    """Replaces blocks of this denoiser, which is at `place` and in `dtype`. Raises Unsuitable, and has then changed nothing."""
    if place.type != "cuda":
        raise Unsuitable("DeepSpeed's kernels run on a CUDA device only")
    if dtype is not torch.float16:
        raise Unsuitable(f"DeepSpeed's kernels compute in float16, not in {name_of(dtype)}")
    found = _look(denoiser, dtype)
    with torch.cuda.device(place), torch.no_grad():
        return put(found, load_kernels(), place, dtype)


def put(found: Survey, kernels: Kernels, place: torch.device, dtype: torch.dtype) -> Optimization:
    """Replaces what was found. Raises Unsuitable, and has then changed nothing."""
    distances = torch.stack([_distance(one, kernels, place, dtype) for one in _one_of_each(found.found)])
    distance = float(distances.max())  # NaN if there is one
    if not distance <= _FARTHEST:
        raise Unsuitable(
            f"DeepSpeed's kernels do not compute on {place} what they should: {distance:.0e} from diffusers' blocks"
        )
    for one in found.found:
        setattr(one.parent, one.name, injected(one.module, kernels, dtype))
    counted = f"{len(found.blocks)} of {found.all_blocks} transformer blocks"
    if found.all_attentions:
        counted += f", {len(found.attentions)} of {found.all_attentions} other attentions"
    said = f"; not those with {found.objections[0]}" if found.objections else ""
    return Optimization("deepspeed", "on", f"{counted}; at most {distance:.0e} from diffusers' blocks{said}")


def _look(denoiser: nn.Module, dtype: torch.dtype) -> Survey:
    if not isinstance(denoiser, UNet2DConditionModel):
        raise Unsuitable(f"DeepSpeed has kernels for the blocks of UNets, not for a {type(denoiser).__name__}")
    found = survey(denoiser, dtype)
    if not found.found:
        reasons = "; ".join(found.objections) or "no transformer blocks"
        raise Unsuitable(
            f"DeepSpeed's fused block computes none of this UNet's {found.all_blocks} blocks: it has {reasons}"
        )
    return found


def _one_of_each(places: Sequence[Place]) -> list[Place]:
    return list({one.kind: one for one in reversed(places)}.values())


def _distance(one: Place, kernels: Kernels, place: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """How far the injected module is from the one that it replaces, at most; NaN if it computes no numbers. Raises Unsuitable."""
    modules = one.module, injected(one.module, kernels, dtype)
    residual = isinstance(one.module, BasicTransformerBlock)
    farthest = torch.zeros((), device=place)
    try:
        for inputs, text in _examples(one, place, dtype):
            outputs = [module(inputs, encoder_hidden_states=text).float() for module in modules]
            expected, got = (output - inputs.float() if residual else output for output in outputs)
            farthest = torch.maximum(farthest, (got - expected).abs().max() / expected.abs().max())
        return farthest.cpu()  # waits: errors of the kernels show here
    except torch.OutOfMemoryError:  # a RuntimeError, and no fault of the kernels
        raise
    except kernels.errors as error:
        raise Unsuitable(f"DeepSpeed's kernels do not run on {place}: {error}") from error


def _examples(
    one: Place, place: torch.device, dtype: torch.dtype
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Inputs and texts: transposed views, as a UNet's convolutions leave them."""
    attention = getattr(one.module, "attn2", one.module)
    generator = torch.Generator(place).manual_seed(0)
    for rows in _ROWS:
        for tokens in _TOKENS:
            drawn = torch.randn(rows, attention.query_dim, tokens, generator=generator, device=place, dtype=dtype)
            text = torch.randn(
                rows, _TEXT_TOKENS, attention.cross_attention_dim, generator=generator, device=place, dtype=dtype
            )
            yield drawn.transpose(1, 2), text if attention.is_cross_attention else None
