"""Flow-matching models as they are published: each one's scheduler configuration, and its pipeline's loop."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from as_diffusers import SHAPE, fake_model
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas

from collodion.worker.sampling.timetable import OWN, Timetable, even_sigmas, shift_for

TOKENS = 1024
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
BY_SIZE = {"base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 4096, "max_shift": 1.15}


def _mu(config: dict[str, Any]) -> float:
    lengths = (config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096))
    shift: float = calculate_shift(TOKENS, *lengths, config.get("base_shift", 0.5), config.get("max_shift", 1.15))
    return shift


def _nothing(scheduler: Any, steps: int) -> dict[str, Any]:
    return {}


def _flux(scheduler: Any, steps: int) -> dict[str, Any]:
    sigmas = None if scheduler.config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps)
    return {"sigmas": sigmas, **_if_it_can_be_shifted(scheduler)}


def _even(scheduler: Any, steps: int) -> dict[str, Any]:
    return {"sigmas": np.linspace(1.0, 1 / steps, steps), **_if_it_can_be_shifted(scheduler)}


def _z_image(scheduler: Any, steps: int) -> dict[str, Any]:
    # An array: UniPC cannot multiply the pipeline's list.
    return {"sigmas": np.array(get_default_z_image_sigmas(steps)), **_if_it_can_be_shifted(scheduler)}


def _if_it_can_be_shifted(scheduler: Any) -> dict[str, Any]:
    """FLUX's pipelines pass mu always; DPM-Solver++ fails if it has no dynamic shifting, the others pay no heed to it then."""
    return {"mu": _mu(scheduler.config)} if scheduler.config.use_dynamic_shifting else {}


@dataclass(frozen=True)
class FlowModel:
    """config: its scheduler_config.json. says: what its pipeline gives to retrieve_timesteps. timetable: our words for that."""

    config: dict[str, Any]
    says: Callable[[Any, int], dict[str, Any]]
    timetable: Callable[[int], Timetable]

    def timesteps(self, scheduler: Any, steps: int) -> torch.Tensor:
        timesteps, _ = retrieve_timesteps(scheduler, steps, "cpu", **self.says(scheduler, steps))
        found: torch.Tensor = timesteps
        return found

    def from_noise(self, scheduler: Any, steps: int, seed: int) -> list[torch.Tensor]:
        """The loop of its text-to-image pipeline: (C, H, W) after each model call, the first before any."""
        generator = torch.Generator().manual_seed(seed)
        latents = [torch.randn((1, *SHAPE), generator=generator)]
        timesteps = self.timesteps(scheduler, steps)
        scheduler.set_begin_index(0)
        for t in timesteps:
            latents.append(_step(scheduler, t, latents[-1], generator))
        return [latent[0] for latent in latents]

    def from_picture(
        self, scheduler: Any, steps: int, skipped: int, seed: int, clean: torch.Tensor, mask: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """The loop of its image-to-image pipeline, or with a mask of its inpainting pipeline, below strength 1."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((1, *SHAPE), generator=generator)
        timesteps = self.timesteps(scheduler, steps)[skipped * scheduler.order :]
        scheduler.set_begin_index(skipped * scheduler.order)
        latents = [_noised(scheduler, clean[None], noise, timesteps[:1])]
        for i, t in enumerate(timesteps):
            following = _step(scheduler, t, latents[-1], generator)
            if mask is not None:
                kept = clean[None]
                if i < len(timesteps) - 1:
                    kept = _noised(scheduler, kept, noise, torch.tensor([timesteps[i + 1]]))
                following = (1 - mask) * kept + mask * following
            latents.append(following)
        return [latent[0] for latent in latents]


def _step(scheduler: Any, t: torch.Tensor, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    # The pipelines pass no generator; schedulers that draw take the global one then, which follows the same rule.
    draws = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    following: torch.Tensor = scheduler.step(fake_model(x, float(t)), t, x, **draws, return_dict=False)[0]
    return following


def _noised(scheduler: Any, clean: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """The pipelines know scale_noise only, so with any other scheduler the same of its own."""
    if hasattr(scheduler, "scale_noise"):
        scaled: torch.Tensor = scheduler.scale_noise(clean, timestep, noise)
        return scaled
    added: torch.Tensor = scheduler.add_noise(clean, noise, timestep)
    return added


def _evenly(config: dict[str, Any], *, spares: bool = False) -> Callable[[int], Timetable]:
    return lambda steps: Timetable(shift_for(TOKENS, config), even_sigmas(steps), spares)


_DEV = {**EULER, **BY_SIZE, "shift": 3.0, "use_dynamic_shifting": True}
_SCHNELL = {**EULER, **BY_SIZE, "shift": 1.0, "use_dynamic_shifting": False}
_QWEN = {
    **EULER,
    **BY_SIZE,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "shift": 1.0,
    "shift_terminal": 0.02,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
_LUMINA = {**EULER, **BY_SIZE, "shift": 6.0, "use_dynamic_shifting": False}
_Z_IMAGE = {**EULER, "shift": 3.0, "use_dynamic_shifting": False}
_SANA = {
    "_class_name": "DPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "beta_schedule": "linear",
    "flow_shift": 3.0,
    "lambda_min_clipped": -float("inf"),
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "solver_order": 2,
    "use_flow_sigmas": True,
}

FLOW_MODELS = {
    "sd3": FlowModel({**EULER, "shift": 3.0}, _nothing, lambda steps: OWN),
    "flux-dev": FlowModel(_DEV, _flux, _evenly(_DEV, spares=True)),
    "flux-schnell": FlowModel(_SCHNELL, _flux, _evenly(_SCHNELL, spares=True)),
    "qwen-image": FlowModel(_QWEN, _even, _evenly(_QWEN)),
    "lumina2": FlowModel(_LUMINA, _even, _evenly(_LUMINA)),
    "z-image": FlowModel(
        _Z_IMAGE,
        _z_image,
        lambda steps: Timetable(shift_for(TOKENS, _Z_IMAGE), tuple(get_default_z_image_sigmas(steps))),
    ),
    "sana": FlowModel(_SANA, _nothing, lambda steps: OWN),
}
