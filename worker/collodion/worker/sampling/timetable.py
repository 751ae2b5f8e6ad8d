"""What a model's pipeline says to its scheduler beside the number of steps.

Stable Diffusion's pipelines say nothing. Those of flow-matching models often name the noise levels, and how much to shift them
for the size of the picture; a family says here what its diffusers pipeline would. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np


@dataclass(frozen=True)
class Timetable:
    """The arguments of `set_timesteps`, as diffusers' retrieve_timesteps passes them on.

    mu: how much to shift; None: not passed, nor to a scheduler without dynamic shifting, to which it says nothing. sigmas: a noise
    level for each step, falling, before any shift; None: not passed, the scheduler knows its own. spares_flow_sigmas: sigmas are
    not passed to a scheduler with `use_flow_sigmas`, which the pipelines of FLUX leave to itself.
    """

    mu: float | None = None
    sigmas: tuple[float, ...] | None = None
    spares_flow_sigmas: bool = False

    def arguments(self, steps: int, scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
        """For `set_timesteps` of the scheduler with this configuration."""
        shifted = self.mu is not None and scheduler_config.get("use_dynamic_shifting")
        arguments: dict[str, Any] = {"mu": self.mu} if shifted else {}
        if self.sigmas is None or (self.spares_flow_sigmas and scheduler_config.get("use_flow_sigmas")):
            return {"num_inference_steps": steps, **arguments}
        assert len(self.sigmas) == steps, f"{len(self.sigmas)} sigmas for {steps} steps"
        return {"sigmas": np.array(self.sigmas), **arguments}


OWN: Final = Timetable()
"""The scheduler's own."""


def even_sigmas(steps: int) -> tuple[float, ...]:
    """Evenly from 1 to 1 / steps, as the pipelines of FLUX, Qwen-Image and Lumina 2 have them: np.linspace, in float64."""
    return tuple(np.linspace(1.0, 1 / steps, steps).tolist())


def shift_for(tokens: int, scheduler_config: Mapping[str, Any]) -> float:
    """mu for a picture of so many image tokens: calculate_shift of diffusers' pipelines, from the model's own scheduler configuration."""
    fewest, most = scheduler_config.get("base_image_seq_len", 256), scheduler_config.get("max_image_seq_len", 4096)
    least, greatest = scheduler_config.get("base_shift", 0.5), scheduler_config.get("max_shift", 1.15)
    slope = (greatest - least) / (most - fewest)
    return float(tokens * slope + (least - slope * fewest))
