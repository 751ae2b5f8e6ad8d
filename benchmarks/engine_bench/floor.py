"""What the device's matrix units alone would need: operations that are counted, over a rate that is measured on the very device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from engine_bench.clocks import Clock, settle
from engine_bench.diffusers_side import DiffusersSide
from engine_bench.subjects import Subject

_aten = torch.ops.aten

MORE = {_aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: _attention_flops(*shapes[:3])}
"""What the counter of torch 2.13 does not know: attention as a CPU runs it."""
_SIDES = {"cuda": (4096, 8192, 12288), "cpu": (512, 1024, 1536)}
_LEAST_S = 0.2  # a size is tried for
_TRIES = 3


@dataclass(frozen=True)
class Work:
    """Floating-point operations of one picture at batch 1: of a model call with all of its rows, and of everything else together."""

    call_flops: float
    ends_flops: float

    def floor_s(self, batch: int, calls: int, rate: float) -> float:
        """Of the model calls of a batch of pictures. rate: operations a second."""
        return batch * calls * self.call_flops / rate


def count_work(side: DiffusersSide, subject: Subject) -> Work:
    """Counted while one picture is drawn in one step."""
    with FlopCounterMode(display=False, custom_mapping=MORE) as counter:
        side.draw(subject.jobs(1, 1))
    return work_of(counter.get_flop_counts(), type(side.denoiser).__name__)


def work_of(counts: Mapping[str, Mapping[Any, int]], denoiser: str) -> Work:
    """counts: by module and operation, as FlopCounterMode has them. denoiser: the class of the one that is called once."""
    call, everything = (float(sum(counts.get(name, {}).values())) for name in (denoiser, "Global"))
    if not call:
        raise ValueError(f"no operation of {denoiser} was counted")
    return Work(call, everything - call)


def matrix_rates(place: torch.device, dtype: torch.dtype, clock: Clock) -> dict[int, float]:
    """Operations a second of a product of square matrices, by their side; the best of a few tries. Without TF32."""
    return {side: _rate(place, dtype, side, clock) for side in _SIDES[place.type]}


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size) -> int:
    """As torch counts its other kernels of attention."""
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _rate(place: torch.device, dtype: torch.dtype, side: int, clock: Clock) -> float:
    left, right = (torch.randn(side, side, device=place, dtype=torch.float32).to(dtype) for _ in range(2))
    out = torch.empty(side, side, device=place, dtype=dtype)
    torch.mm(left, right, out=out)
    best = 0.0
    for _ in range(_TRIES):
        settle(place)
        began, products = clock(), 0
        while clock() - began < _LEAST_S:
            for _ in range(8 if place.type == "cuda" else 1):
                torch.mm(left, right, out=out)
                products += 1
            settle(place)
        best = max(best, products * 2 * side**3 / (clock() - began))
    return best
