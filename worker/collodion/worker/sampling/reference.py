"""Builds the diffusers scheduler of a sampler for one model, and walks it exactly as the pipeline of such a model does.

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
import numpy as np
import torch

from collodion.worker.sampling.catalog import Sampler, SamplerRefused, flow_matching, sampler
from collodion.worker.sampling.timetable import OWN, Timetable

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

FLOW_SCHEDULE = (
    "use_dynamic_shifting",
    "shift_terminal",
    "stochastic_sampling",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
)
"""The same of flow-matching models; their shift goes by two names, see `_shift`."""

OUTRANK_FLOW_SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
"""Options that make a scheduler forget its `use_flow_sigmas`, and with them the model's shift."""

NOT_OFFERED = ("invert_sigmas", "scale_factors")
"""Flow schedules that run from picture to noise, or change the latent's size on the way."""

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
    """Turns whatever a scheduler raises inside into `SamplerRefused`. What it divides by zero is found by looking at the results."""
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            yield
    except SCHEDULER_FAULTS as error:
        said = str(error) or "an assertion does not hold"
        raise SamplerRefused(f"{name} cannot do this for this model, says diffusers: {said}") from error


def build(name: str, config: Config) -> Any:
    """The scheduler as a diffusers user would build it for this model. Raises `SamplerRefused` if it does not suit."""
    entry = sampler(name, config)
    scheduler_class = getattr(diffusers, entry.scheduler)
    if flow_matching(config):
        _check_honours_flow(name, scheduler_class, entry, config)
        shift = _shift(scheduler_class, config)
    else:
        _check_honours(name, scheduler_class, config)
        shift = {}
    _check_linear(name, scheduler_class, config)
    with refusing(name):
        return scheduler_class.from_config(dict(config), **entry.overrides, **shift)


class Walk:
    """One run of a scheduler, as `build` made it, to the end: from pure noise, or without its first `skipped` steps.

    The scheduler itself is left as it is. `steps` counts those that are run. Raises `SamplerRefused` where it cannot do that many
    steps, or would make another number of model calls than the straight line that everybody plans with (`counting`).
    """

    def __init__(self, name: str, steps: int, scheduler: Any, skipped: int = 0, timetable: Timetable = OWN) -> None:
        self.name, self.steps = name, steps - skipped
        self.scheduler = copy.deepcopy(scheduler)
        arguments = timetable.arguments(steps, self.scheduler.config)
        if "sigmas" in arguments and "sigmas" not in inspect.signature(self.scheduler.set_timesteps).parameters:
            raise SamplerRefused(
                f"{name} cannot take the noise levels that this model's pipeline gives to its scheduler"
            )
        with refusing(name):
            self.scheduler.set_timesteps(**arguments, device="cpu")
            # Flow-matching pipelines neither scale the initial noise nor what the model is given.
            self.init_noise_sigma = float(getattr(self.scheduler, "init_noise_sigma", 1.0))
        self._check_calls(steps)
        # As the image-to-image pipelines' get_timesteps.
        first = skipped * self.scheduler.order
        self.timesteps: torch.Tensor = self.scheduler.timesteps[first:]
        # Found by value, a first timestep that occurs twice would be taken for the second of its kind.
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(first)

    def _check_calls(self, steps: int) -> None:
        timesteps, order = self.scheduler.timesteps, self.scheduler.order
        twice = steps > 1 and isinstance(self.scheduler, diffusers.PNDMScheduler)
        surplus = len(timesteps) - (order * (steps - 1) + 1 + twice)
        if surplus or float(timesteps.min()) < 0:
            # "trailing" spacing adds up fractions: 61 steps of 1000 become 62, the last of them at timestep -1.
            rounded = steps + surplus // order
            raise SamplerRefused(f"diffusers rounds {steps} steps to {rounded} for this model; ask for another number")

    def __len__(self) -> int:
        return len(self.timesteps)

    def scale(self, call: int, x: torch.Tensor) -> torch.Tensor:
        """What the model is given for the latent x; must precede `step` of the same call."""
        if not hasattr(self.scheduler, "scale_model_input"):
            return x
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

    def mix(self, call: int, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """A clean latent made as noisy as the latent is before this call. Tensors as in `step`.

        As the pipelines do for the latent that they begin with and, inpainting, for what is kept. Several schedulers look where
        they are themselves, so it must be called after `step` of the call before and before `scale` of this one.
        """
        timesteps = self.timesteps[call : call + 1]
        with refusing(self.name):
            if hasattr(self.scheduler, "scale_noise"):
                mixed: torch.Tensor = self.scheduler.scale_noise(clean, timesteps, noise)
            else:
                mixed = self.scheduler.add_noise(clean, noise, timesteps)
        return mixed

    def step_of(self, call: int) -> int:
        """The step, from 0 of those that are run, that a call belongs to.

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


def _check_honours_flow(name: str, scheduler_class: type, entry: Sampler, config: Config) -> None:
    accepted = inspect.signature(scheduler_class).parameters
    outranked = OUTRANK_FLOW_SIGMAS if "use_flow_sigmas" in entry.overrides else ()
    for key in (*FLOW_SCHEDULE, *NOT_OFFERED, *outranked):
        honoured = key in accepted and key not in (*NOT_OFFERED, *outranked)
        if config.get(key) and not honoured:
            reason = f"{name} cannot honour this model's noise schedule: its scheduler configuration sets {key} ({config[key]!r})"
            raise SamplerRefused(reason)


def _shift(scheduler_class: type, config: Config) -> dict[str, float]:
    """The model's shift by the name that this class gives to it: one formula, called shift or flow_shift."""
    theirs = "flow_shift" in config and not str(config.get("_class_name")).startswith("FlowMatch")
    shift = config["flow_shift"] if theirs else config.get("shift", 1.0)
    accepted = inspect.signature(scheduler_class).parameters
    return {key: shift for key in ("shift", "flow_shift") if key in accepted}


def _check_linear(name: str, scheduler_class: type, config: Config) -> None:
    accepted = inspect.signature(scheduler_class).parameters
    defaults = {key: accepted[key].default for key in CLIPPING if key in accepted}
    for key, default in defaults.items():
        if config.get(key, default):
            raise SamplerRefused(f"{name} is not linear for this model: its scheduler configuration sets {key}")
