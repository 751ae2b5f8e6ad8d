"""The samplers that a request may name, as strings only.

Importing this module imports neither torch nor diffusers, so that any process can list and validate names. A
sampler is a diffusers scheduler class and what is overridden of the model's own scheduler configuration, as in
`Class.from_config(model_scheduler_config, **overrides)`. An override is set wherever a name promises something that
the configuration of another scheduler could change: `dpmpp_2m` is of order 2 and without Karras sigmas for every model.

A name means the same method for both kinds of model, which takes another class or other options: diffusion models, that are trained
with a schedule of betas, and flow-matching models, that are trained on straight lines from noise to picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

MAX_STEPS: Final = 150
"""Most steps that can be asked for. Beyond it a table costs time and memory, and no sampler gains anything."""

FLOW_PREDICTION: Final = "flow_prediction"

Override = bool | int | str


class SamplerRefused(ValueError):
    """This sampler cannot be offered with these steps for this model; `reason` says why, for the person who asked."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Sampler:
    """`scheduler` is the name of a class in `diffusers`; `overrides` go to its `from_config`."""

    scheduler: str
    overrides: Mapping[str, Override] = field(default_factory=lambda: MappingProxyType({}))


def _dpmpp(order: int, *, karras: bool = False, sde: bool = False) -> Sampler:
    algorithm = "sde-dpmsolver++" if sde else "dpmsolver++"
    overrides: dict[str, Override] = {"algorithm_type": algorithm, "solver_order": order, "use_karras_sigmas": karras}
    if karras:  # diffusers takes one kind of sigmas only, and the model may have configured another
        overrides |= {"use_exponential_sigmas": False, "use_beta_sigmas": False}
    return Sampler("DPMSolverMultistepScheduler", MappingProxyType(overrides))


def _flow(of: Sampler) -> Sampler:
    """A diffusion sampler whose class knows flow matching, too."""
    overrides = {**of.overrides, "use_flow_sigmas": True, "prediction_type": FLOW_PREDICTION}
    return Sampler(of.scheduler, MappingProxyType(overrides))


SAMPLERS: Final[Mapping[str, Sampler]] = MappingProxyType(
    {
        "ddim": Sampler("DDIMScheduler"),
        "ddpm": Sampler("DDPMScheduler"),
        "euler": Sampler("EulerDiscreteScheduler"),
        "euler_a": Sampler("EulerAncestralDiscreteScheduler"),
        "heun": Sampler("HeunDiscreteScheduler"),
        "kdpm2": Sampler("KDPM2DiscreteScheduler"),
        "lms": Sampler("LMSDiscreteScheduler"),
        # Without its Runge-Kutta start, as every Stable Diffusion model configures it: N + 1 calls for N steps.
        "pndm": Sampler("PNDMScheduler", MappingProxyType({"skip_prk_steps": True})),
        "dpmpp_2m": _dpmpp(2),
        "dpmpp_2m_karras": _dpmpp(2, karras=True),
        "dpmpp_2m_sde": _dpmpp(2, sde=True),
        "dpmpp_3m": _dpmpp(3),
        "deis": Sampler("DEISMultistepScheduler"),
        "unipc": Sampler("UniPCMultistepScheduler"),
        "lcm": Sampler("LCMScheduler"),
        "tcd": Sampler("TCDScheduler"),
    }
)


# DEIS is not here: with flow sigmas diffusers 0.42 ends it before the noise is gone.
FLOW_SAMPLERS: Final[Mapping[str, Sampler]] = MappingProxyType(
    {
        "euler": Sampler("FlowMatchEulerDiscreteScheduler"),
        "heun": Sampler("FlowMatchHeunDiscreteScheduler"),
        **{name: _flow(SAMPLERS[name]) for name in ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "unipc")},
        "lcm": Sampler("FlowMatchLCMScheduler"),
    }
)


def flow_matching(scheduler_config: Mapping[str, Any]) -> bool:
    """Whether a model with this scheduler configuration is a flow-matching model, by its scheduler's class or what it predicts.

    A scheduler that was made in memory does not say its class; those for flow matching alone have a shift and no betas.
    """
    if scheduler_config.get("prediction_type") == FLOW_PREDICTION:
        return True
    if class_name := scheduler_config.get("_class_name"):
        return str(class_name).startswith("FlowMatch")
    return "shift" in scheduler_config and "beta_schedule" not in scheduler_config


def samplers_for(scheduler_config: Mapping[str, Any]) -> Mapping[str, Sampler]:
    """The samplers for the kind of model that has this scheduler configuration; a single model may still have to refuse some."""
    return FLOW_SAMPLERS if flow_matching(scheduler_config) else SAMPLERS


def sampler(name: str, scheduler_config: Mapping[str, Any]) -> Sampler:
    """The sampler of that name for such a model. Raises `SamplerRefused` for an unknown one, naming those there are."""
    offered = samplers_for(scheduler_config)
    if name in offered:
        return offered[name]
    if name in SAMPLERS:
        raise SamplerRefused(f"{name} is not for flow-matching models; their samplers are {', '.join(offered)}")
    raise SamplerRefused(f"unknown sampler {name!r}; the samplers are {', '.join(offered)}")
