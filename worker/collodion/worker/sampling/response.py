"""How a scheduler's outputs depend on its inputs, found by running it once on basis vectors.

At every model call the scheduler is given a NEW basis vector as latent, another as model output, and a third for the
noise it draws. So each output shows directly how it depends on the inputs of this call and, through what the
scheduler remembers, on those of earlier calls; no error accumulates from call to call, and the scheduler's own casts to
float32 cost nothing because ones and zeros survive them.

Noise is caught where diffusers draws it, by a torch function mode, which concerns the running thread only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from collodion.worker.sampling.catalog import SamplerRefused
from collodion.worker.sampling.reference import Walk
from collodion.worker.sampling.table import NoiseDtype

INPUTS = 3
"""Inputs of a call, in this order: x (latent), e (model output), z (noise)."""

CLEAN = (1.0, 0.0)
"""The level of a finished latent."""


@dataclass(frozen=True, eq=False)
class Response:
    """outputs: float64 (calls, calls, INPUTS), outputs[k, j] is how call k's latent depends on the inputs of call j.

    levels: as in `SamplerTable`.
    """

    outputs: NDArray[np.float64]
    input_scales: tuple[float, ...]
    draws: tuple[NoiseDtype | None, ...]
    levels: tuple[tuple[float, float], ...]


class _NoiseAsBasis(TorchFunctionMode):
    """Gives `vector` for each normal draw, and records in which dtypes were drawn."""

    def __init__(self, vector: torch.Tensor) -> None:
        super().__init__()
        self.vector = vector
        self.dtypes: list[torch.dtype] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not torch.randn:
            return func(*args, **(kwargs or {}))
        dtype = (kwargs or {}).get("dtype") or torch.get_default_dtype()
        self.dtypes.append(dtype)
        return self.vector.to(dtype)


def measure(walk: Walk) -> Response:
    """Runs a fresh walk to its end. Raises `SamplerRefused` where an output is not finite or noise is drawn twice."""
    calls = len(walk)
    basis = torch.eye(calls * INPUTS, dtype=torch.float64).reshape(calls, INPUTS, 1, 1, 1, -1)
    outputs, scales, draws, levels = [], [], [], []
    for call, (x, e, z) in enumerate(basis):
        levels.append(_level(walk, call))
        scales.append(float(walk.scale(call, x).flatten()[call * INPUTS]))
        with _NoiseAsBasis(z) as noise:
            outputs.append(walk.step(call, x, e, torch.Generator()).flatten())
        draws.append(_draw(walk, noise.dtypes))
    stacked = torch.stack(outputs).reshape(calls, calls, INPUTS).numpy()
    _check_finite(walk, stacked, scales, levels)
    return Response(stacked, tuple(scales), tuple(draws), (*levels, CLEAN))


def _level(walk: Walk, call: int) -> tuple[float, float]:
    """In float32, in which diffusers computes the two: so theirs, to the last bit."""
    clean, noise = torch.eye(2).reshape(2, 1, 1, 1, 2)
    signal, share = walk.mix(call, clean, noise).flatten().tolist()
    return signal, share


def _draw(walk: Walk, dtypes: list[torch.dtype]) -> NoiseDtype | None:
    if not dtypes:
        return None
    if len(dtypes) > 1:
        raise SamplerRefused(f"{walk.name} draws noise {len(dtypes)} times in one model call")
    return "model" if dtypes[0] == torch.float64 else "float32"


def _check_finite(
    walk: Walk, outputs: NDArray[np.float64], scales: list[float], levels: list[tuple[float, float]]
) -> None:
    finite = np.isfinite(outputs).all(axis=(1, 2)) & np.isfinite(scales) & np.isfinite(levels).all(axis=1)
    if not finite.all():
        call = int(np.argmin(finite))
        reason = f"{walk.name} is not finite at model call {call + 1} of {len(walk)} with this model's noise schedule"
        raise SamplerRefused(reason)
