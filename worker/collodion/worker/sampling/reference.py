"""Builds the diffusers scheduler of a sampler for one model, and walks it exactly as StableDiffusionPipeline does.

Both the probe and its check go through `Walk`, so there is one place that says how diffusers is driven. Nothing in a
scheduler is patched. diffusers is foreign code given a model author's configuration, so anything it raises on the way
becomes `SamplerRefused`.
"""

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import diffusers
import torch

from collodion.worker.sampling.catalog import SamplerRefused, sampler

Config = Mapping[str, Any]
"""A model's scheduler_config.json, or `pipeline.scheduler.config`."""

NOISE_SCHEDULE = (
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
    "shift",
    "sigma_data",
    "use_flow_sigmas",
)
"""What a model was trained with: a scheduler that does not take one of these would silently ignore it."""

CLIPPING = ("thresholding", "clip_sample")
"""Options that make a step non-linear in the latent."""

SCHEDULER_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)

ETA = 0.0
"""What StableDiffusionPipeline passes, unless told otherwise, to every scheduler whose step takes an eta."""


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Turns whatever a scheduler raises inside into `SamplerRefused`."""
    try:
        yield
    except SCHEDULER_FAULTS as error:
        raise SamplerRefused(f"{name} cannot do this for this model, says diffusers: {error}") from error


def build(name: str, config: Config) -> Any:
    """The scheduler as a diffusers user would build it for this model. Raises `SamplerRefused` if it does not suit."""
    entry = sampler(name)
    scheduler_class = getattr(diffusers, entry.scheduler)
    with refusing(name):
        scheduler = scheduler_class.from_config(dict(config), **entry.overrides)
    _check_honours(name, scheduler_class, config)
    return scheduler


class Walk:
    """One run of a scheduler, as `build` made it, from pure noise to the end.

    The scheduler itself is left as it is. Raises `SamplerRefused` where it cannot do that many steps.
    """

    def __init__(self, name: str, steps: int, scheduler: Any) -> None:
        self.name, self.steps = name, steps
        self.scheduler = copy.deepcopy(scheduler)
        with refusing(name):
            self.scheduler.set_timesteps(steps, device="cpu")
            self.timesteps: torch.Tensor = self.scheduler.timesteps
            self.init_noise_sigma = float(self.scheduler.init_noise_sigma)
        if float(self.timesteps.min()) < 0 or len(self) < steps:
            # "trailing" spacing adds up fractions: 61 steps of 1000 become 62, the last of them at timestep -1.
            raise SamplerRefused(
                f"diffusers rounds {steps} steps to {len(self)} for this model; ask for another number"
            )
        # Found by value, a first timestep that occurs twice would be taken for the second of its kind.
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(0)

    def __len__(self) -> int:
        return len(self.timesteps)

    def scale(self, call: int, x: torch.Tensor) -> torch.Tensor:
        """What the model is given for the latent x; must precede `step` of the same call."""
        with refusing(self.name):
            scaled: torch.Tensor = self.scheduler.scale_model_input(x, self.timesteps[call])
        return scaled

    def step(self, call: int, x: torch.Tensor, e: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The next latent. x, e and the result have one shape, (1, C, H, W), and one dtype."""
        accepted = inspect.signature(self.scheduler.step).parameters
        extra = {key: value for key, value in (("eta", ETA), ("generator", generator)) if key in accepted}
        with refusing(self.name):
            following: torch.Tensor = self.scheduler.step(e, self.timesteps[call], x, return_dict=False, **extra)[0]
        return following

    def step_of(self, call: int) -> int:
        """The user's step, from 0, that a call belongs to.

        A second-order scheduler makes two calls a step and one for the last. Any other call too many is PNDM's: its
        first step is done over with a better slope.
        """
        if self.scheduler.order == 2:
            return call // 2
        return max(0, call - (len(self) - self.steps))


def _check_honours(name: str, scheduler_class: type, config: Config) -> None:
    accepted = inspect.signature(scheduler_class).parameters
    for key in NOISE_SCHEDULE:
        if config.get(key) and key not in accepted:
            reason = f"{name} cannot honour this model's noise schedule: it knows no {key} ({config[key]!r})"
            raise SamplerRefused(reason)
    defaults = {key: accepted[key].default for key in CLIPPING if key in accepted}
    for key, default in defaults.items():
        if config.get(key, default):
            raise SamplerRefused(f"{name} is not linear for this model: its scheduler configuration sets {key}")
