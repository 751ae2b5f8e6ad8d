"""The samplers that a request may name, as strings only.

Importing this module imports neither torch nor diffusers, so that any process can list and validate names. A
sampler is a diffusers scheduler class and what is overridden of the model's own scheduler configuration, as in
`Class.from_config(model_scheduler_config, **overrides)`. An override is set wherever a name promises something that
the configuration of another scheduler could change: `dpmpp_2m` is of order 2 and without Karras sigmas for every model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

MAX_STEPS: Final = 150
"""Most steps that can be asked for. Beyond it a table costs time and memory, and no sampler gains anything."""

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


def sampler(name: str) -> Sampler:
    """The sampler of that name. Raises `SamplerRefused` for an unknown one, naming those there are."""
    try:
        return SAMPLERS[name]
    except KeyError:
        raise SamplerRefused(f"unknown sampler {name!r}; the samplers are {', '.join(SAMPLERS)}") from None
