"""Attention by the backend that the settings name: proved when a model is loaded, chosen by each of its processors.

1. One path: every attention calls diffusers' dispatcher, with the backend that its own processor names. Nothing is said to the
   dispatcher as a whole, so models with different backends run side by side.
2. Each backend is run before it is used (`attention_probe`). One that computes something else is refused; attentions that it cannot
   run (a head too wide) stay with SDPA and are counted.
3. Masks, where prompts of mixed lengths are in one call: a UNet's cross-attention goes to SDPA for such calls if the backend takes none,
   all else stays. Transformers whose texts are in one sequence with the picture cannot do that: `takes_masks`.
"""

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.attention_processor import Attention as DiffusersAttention
from diffusers.models.attention_processor import AttnProcessor2_0, JointAttnProcessor2_0
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from diffusers.models.transformers.transformer_qwenimage import QwenDoubleStreamAttnProcessor2_0
from diffusers.models.transformers.transformer_z_image import ZSingleStreamAttnProcessor
from torch import nn

from collodion.wire.jobs import Optimization
from collodion.worker.optimize.attention_probe import Masks, Proof, Reads, Shape, prove
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.kernels import dispatched
from collodion.worker.optimize.processors import JointAttention, UnetAttention
from collodion.worker.optimize.wishes import Attention

_MASKS: Mapping[type[Any], Masks] = {
    AttnProcessor2_0: Masks.BIAS,
    UnetAttention: Masks.BIAS,
    JointAttnProcessor2_0: Masks.NONE,
    JointAttention: Masks.NONE,
    FluxAttnProcessor: Masks.NONE,
    QwenDoubleStreamAttnProcessor2_0: Masks.BOOLS,
    ZSingleStreamAttnProcessor: Masks.BOOLS,
}
"""By the processor. What is not here is left alone."""
_NATIVE = AttentionBackendName.NATIVE


class _Verdict(NamedTuple):
    """On attentions of one shape. masked: None where there are no masks."""

    plain: Proof
    masked: Proof | None

    @property
    def takes_masks(self) -> bool:
        return self.masked is None or self.masked.right


def use_attention(denoiser: nn.Module, backend: Attention, place: torch.device, dtype: torch.dtype) -> Optimization:
    """From now on the denoiser's attentions are computed by this backend. dtype: of their queries. `auto`: torch's own choice.

    On the thread that loads: it waits for the device. Raises Unsuitable, and has changed nothing then, if the package is not there, if it
    runs for none of the attentions here, or if what it computes is not attention.
    """
    chosen = Attention.SDPA if backend is Attention.AUTO else backend
    name = dispatched(chosen)
    every = [module for module in denoiser.modules() if isinstance(module, DiffusersAttention | AttentionModuleMixin)]
    shapes = {module: _shape(module) for module in every if type(getattr(module, "processor", None)) in _MASKS}
    if not shapes:
        raise Unsuitable("the model has no attention whose backend can be chosen")
    verdicts = {shape: _verdict(name, shape, place, dtype) for shape in dict.fromkeys(shapes.values())}
    _refuse_wrong(chosen, verdicts)
    for module, shape in shapes.items():
        _set(module, name, verdicts[shape])
    return Optimization("attention", chosen.value, _detail(every, shapes, verdicts))


def takes_masks(denoiser: nn.Module) -> bool:
    """Whether prompts of mixed lengths may be in one call, which needs masks. Else: rows whose texts have the same length."""
    return all(getattr(getattr(module, "processor", None), "takes_masks", True) for module in denoiser.modules())


def _shape(module: Any) -> Shape:
    masks = _MASKS[type(module.processor)]
    if masks is Masks.BIAS:
        crossed = bool(module.is_cross_attention)
        reads, masks = (Reads.TEXT, masks) if crossed else (Reads.PICTURE, Masks.NONE)
    else:
        reads = Reads.BOTH
    return Shape(module.heads, module.inner_dim // module.heads, reads, masks)


def _verdict(name: AttentionBackendName, shape: Shape, place: torch.device, dtype: torch.dtype) -> _Verdict:
    plain = prove(name, shape, place, dtype)
    needed = plain.runs and shape.masks is not Masks.NONE
    return _Verdict(plain, prove(name, shape, place, dtype, masked=True) if needed else None)


def _refuse_wrong(backend: Attention, verdicts: Mapping[Shape, _Verdict]) -> None:
    for shape, (plain, masked) in verdicts.items():
        wrong = next((proof for proof in (plain, masked) if proof is not None and proof.runs and not proof.right), None)
        if wrong is not None:
            with_mask = " and a mask" if wrong is masked else ""
            far = f"{wrong.difference:.1e} of the largest value, more than {wrong.bound:.0e}"
            raise Unsuitable(f"attention={backend} computes something else: with {shape}{with_mask} it is off by {far}")
    if not any(plain.runs for plain, _ in verdicts.values()):
        shape, (plain, _) = next(iter(verdicts.items()))
        raise Unsuitable(f"attention={backend} does not run here with {shape}: {plain.reason}")


def _set(module: Any, name: AttentionBackendName, verdict: _Verdict) -> None:
    """The module gets a processor of its own: diffusers has some share one."""
    own = name if verdict.plain.runs else _NATIVE
    kind = type(module.processor)
    if kind in (AttnProcessor2_0, UnetAttention):
        module.set_processor(UnetAttention(own, own if verdict.takes_masks else _NATIVE))
    elif kind in (JointAttnProcessor2_0, JointAttention):
        module.set_processor(JointAttention(own))
    else:
        processor = copy.copy(module.processor)
        processor._attention_backend = own
        processor.takes_masks = verdict.takes_masks
        module.set_processor(processor)


def _detail(every: Iterable[Any], shapes: Mapping[Any, Shape], verdicts: Mapping[Shape, _Verdict]) -> str:
    through = [module for module, shape in shapes.items() if verdicts[shape].plain.runs]
    proofs = [proof for verdict in verdicts.values() for proof in verdict if proof is not None]
    farthest = max(proof.difference for proof in proofs if proof.difference is not None)
    said = [
        f"{len(through)} of {len(list(every))} attentions",
        f"at most {farthest:.0e} of the largest value from SDPA in float32",
    ]
    left = Counter(shape for shape in shapes.values() if not verdicts[shape].plain.runs)
    said += [f"{count} with {shape} stay with SDPA ({verdicts[shape].plain.reason})" for shape, count in left.items()]
    refusing = [shape for shape, verdict in verdicts.items() if not verdict.takes_masks]
    if any(shape.masks is Masks.BIAS for shape in refusing):
        said.append("it takes no mask: cross-attention goes to SDPA where prompts differ in length")
    elif refusing:
        said.append("it takes no mask: prompts of one length in a call")
    return "; ".join(said)
