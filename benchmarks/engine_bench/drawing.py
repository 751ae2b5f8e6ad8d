"""What every column does: pictures of some jobs, from their prompts to pixels on the host."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from collodion.wire.jobs import Parameters

Picture = NDArray[np.uint8]


class NotFinite(Exception):
    """A picture holds what is no number."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """step_s: from the end of each step to the end of the next one. latents: float32 (N, C, H, W) on the CPU, when asked for.

    gaps: of each step but the first the share of the time since the last one's end in which the device had not begun it; none if unknown.
    """

    step_s: Sequence[float]
    pictures: Sequence[Picture]
    latents: Callable[[], torch.Tensor]
    gaps: Sequence[float] = field(default=())


def nothing(_: int) -> None:
    """What is done after a step of this number, by default."""


class Contestant(Protocol):
    """A loaded model that draws in its own way."""

    @property
    def weight_bytes(self) -> int:
        """Device memory that it takes by being loaded."""

    @property
    def denoiser(self) -> Any:
        """What is called at every step."""

    def draw(self, jobs: Sequence[Parameters], at_step: Callable[[int], None] = nothing) -> Drawn:
        """Jobs of one size and one number of steps. at_step: told the number of each step when it was asked of the device.

        Raises MemoryError or torch.OutOfMemoryError, NotFinite.
        """

    def close(self) -> None:
        """Gives its memory back."""
