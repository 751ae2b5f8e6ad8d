"""Stable Diffusion 1.x and 2.x: a UNet that reads one CLIP text encoder.

Reference: StableDiffusionPipeline, and with a picture StableDiffusionImg2ImgPipeline and StableDiffusionInpaintPipeline.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from collodion.worker.families.architecture import MASK, Architecture, Configs, Facts, Rows, Texts
from collodion.worker.families.unets import latent_sides, sees_masks, unet_facts

_BASES = {768: "sd1", 1024: "sd2"}  # by the width of the text states
_REAL_WIDTH = 320  # of the first block: adapters for these do not fit a smaller model


class StableDiffusion(Architecture):
    """See the module."""

    family: ClassVar[str] = "stable-diffusion"
    pipelines: ClassVar[tuple[str, ...]] = (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
    )
    denoiser_part: ClassVar[str] = "unet"

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        self.sees_masks = sees_masks(pipeline)

    @classmethod
    def facts(cls, configs: Configs) -> Facts:
        """See Architecture."""
        unet = configs["unet"]
        if unet.get("addition_embed_type") is not None:
            raise ValueError(f"its UNet wants {unet['addition_embed_type']} beside the prompt")
        base = _BASES.get(unet["cross_attention_dim"], "") if unet["block_out_channels"][0] == _REAL_WIDTH else ""
        return unet_facts(configs, base)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """See Architecture."""
        return (self.pipeline.vae.config.latent_channels, *latent_sides(self.vae, width, height))

    def encode(self, prompts: Sequence[str], negative: Sequence[bool]) -> list[Texts]:  # noqa: ARG002 - all are read alike
        """See Architecture. `states`: (tokens, width)."""
        states, _ = self.pipeline.encode_prompt(list(prompts), self.denoiser.device, 1, False)
        return [{"states": one} for one in states]

    def predict(self, rows: Rows) -> torch.Tensor:
        """See Architecture."""
        predicted: torch.Tensor = self.denoiser(
            rows.inputs,
            rows.timesteps,
            encoder_hidden_states=rows.texts["states"],
            encoder_attention_mask=rows.texts.get("states" + MASK),
            return_dict=False,
        )[0]
        return predicted
