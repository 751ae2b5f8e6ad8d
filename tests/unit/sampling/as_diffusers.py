"""The unmodified diffusers schedulers, driven literally as diffusers' pipelines drive them, and a model to drive them with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch

SHAPE = (4, 8, 8)

SD15: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
ZERO_SNR = {
    **SD15,
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "prediction_type": "v_prediction",
}

REFERENCE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "ddim": diffusers.DDIMScheduler.from_config,
    "ddpm": diffusers.DDPMScheduler.from_config,
    "euler": diffusers.EulerDiscreteScheduler.from_config,
    "euler_a": diffusers.EulerAncestralDiscreteScheduler.from_config,
    "heun": diffusers.HeunDiscreteScheduler.from_config,
    "kdpm2": diffusers.KDPM2DiscreteScheduler.from_config,
    "lms": diffusers.LMSDiscreteScheduler.from_config,
    "pndm": diffusers.PNDMScheduler.from_config,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler.from_config,
    "dpmpp_2m_karras": lambda c: diffusers.DPMSolverMultistepScheduler.from_config(c, use_karras_sigmas=True),
    "dpmpp_2m_sde": lambda c: diffusers.DPMSolverMultistepScheduler.from_config(c, algorithm_type="sde-dpmsolver++"),
    "dpmpp_3m": lambda c: diffusers.DPMSolverMultistepScheduler.from_config(c, solver_order=3),
    "deis": diffusers.DEISMultistepScheduler.from_config,
    "unipc": diffusers.UniPCMultistepScheduler.from_config,
    "lcm": diffusers.LCMScheduler.from_config,
    "tcd": diffusers.TCDScheduler.from_config,
}


def _flow(scheduler_class: Any, **options: Any) -> Callable[[dict[str, Any]], Any]:
    """A scheduler that is not for flow matching alone, as its users set it up for a flow-matching model."""

    def build(config: dict[str, Any]) -> Any:
        shift = config.get("shift", config.get("flow_shift"))
        options_of_flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
        return scheduler_class.from_config(config, **options_of_flow, **options)

    return build


def _shifted(scheduler_class: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda config: scheduler_class.from_config(config, shift=config.get("shift", config.get("flow_shift")))


FLOW_REFERENCE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "euler": _shifted(diffusers.FlowMatchEulerDiscreteScheduler),
    "heun": _shifted(diffusers.FlowMatchHeunDiscreteScheduler),
    "dpmpp_2m": _flow(diffusers.DPMSolverMultistepScheduler),
    "dpmpp_2m_sde": _flow(diffusers.DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++"),
    "dpmpp_3m": _flow(diffusers.DPMSolverMultistepScheduler, solver_order=3),
    "unipc": _flow(diffusers.UniPCMultistepScheduler),
    "lcm": _shifted(diffusers.FlowMatchLCMScheduler),
}


def fake_model(x: torch.Tensor, timestep: float) -> torch.Tensor:
    """Not linear in the latent, and different at every timestep and place."""
    place = torch.arange(x[0].numel(), dtype=torch.float32).reshape(x[0].shape)
    return 0.8 * torch.sin(x) + 0.3 * torch.cos(place + 0.01 * timestep)


@dataclass
class Pipeline:
    """What the borrowed methods of diffusers' pipelines look for in `self`."""

    scheduler: Any

    def extra(self, generator: torch.Generator) -> dict[str, Any]:
        found: dict[str, Any] = diffusers.StableDiffusionPipeline.prepare_extra_step_kwargs(self, generator, 0.0)
        return found

    def from_noise(self, steps: int, seed: int) -> list[torch.Tensor]:
        """StableDiffusionPipeline: the latent after each model call of its loop, (C, H, W) each, the first before any."""
        self.scheduler.set_timesteps(steps)
        generator = torch.Generator().manual_seed(seed)
        latents = [torch.randn((1, *SHAPE), generator=generator) * self.scheduler.init_noise_sigma]
        extra = self.extra(generator)
        for t in self.scheduler.timesteps:
            e = fake_model(self.scheduler.scale_model_input(latents[-1], t), float(t))
            latents.append(self.scheduler.step(e, t, latents[-1], **extra, return_dict=False)[0])
        return [latent[0] for latent in latents]

    def from_picture(
        self, steps: int, strength: float, seed: int, clean: torch.Tensor, mask: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """StableDiffusionImg2ImgPipeline, or with a mask StableDiffusionInpaintPipeline with a UNet of four channels.

        clean: (C, H, W), as if the VAE's posterior were its mean. mask: (1, H, W), 1 where the picture is drawn anew.
        """
        generator = torch.Generator().manual_seed(seed)
        self.scheduler.set_timesteps(steps)
        timesteps, _ = diffusers.StableDiffusionImg2ImgPipeline.get_timesteps(self, steps, strength, "cpu")
        noise = torch.randn((1, *SHAPE), generator=generator)
        if mask is not None and strength == 1.0:
            latents = [noise * self.scheduler.init_noise_sigma]
        else:
            latents = [self.scheduler.add_noise(clean[None], noise, timesteps[:1])]
        extra = self.extra(generator)
        for i, t in enumerate(timesteps):
            e = fake_model(self.scheduler.scale_model_input(latents[-1], t), float(t))
            following = self.scheduler.step(e, t, latents[-1], **extra, return_dict=False)[0]
            if mask is not None:
                kept = clean[None]
                if i < len(timesteps) - 1:
                    kept = self.scheduler.add_noise(kept, noise, torch.tensor([timesteps[i + 1]]))
                following = (1 - mask) * kept + mask * following
            latents.append(following)
        return [latent[0] for latent in latents]


def by_diffusers(name: str, steps: int, config: dict[str, Any], seed: int) -> list[torch.Tensor]:
    return Pipeline(REFERENCE[name](config)).from_noise(steps, seed)


def assert_same_picture(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> None:
    """The first latent to the bit; every one within 1e-4 of its largest value."""
    assert len(ours) == len(theirs)
    assert torch.equal(ours[0], theirs[0])
    for mine, reference in zip(ours, theirs, strict=True):
        assert float((mine - reference).abs().max()) <= 1e-4 * float(reference.abs().max())
