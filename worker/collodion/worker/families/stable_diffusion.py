"""Stable Diffusion 1.x and 2.x: a UNet that reads one CLIP text encoder.

Reference: StableDiffusionPipeline, and with a picture StableDiffusionImg2ImgPipeline and StableDiffusionInpaintPipeline.
"""

from typing import Any, ClassVar

from collodion.worker.families.architecture import MASK, Configs, Facts, Rows
from collodion.worker.families.unets import REAL_WIDTH, UnetArchitecture, unet_facts

_BASES = {768: "sd1", 1024: "sd2"}  # by the width of the text states


class StableDiffusion(UnetArchitecture):
    """See the module."""

    family: ClassVar[str] = "stable-diffusion"
    pipelines: ClassVar[tuple[str, ...]] = (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
    )

    @classmethod
    def facts(cls, configs: Configs) -> Facts:
        """See Architecture."""
        unet = configs["unet"]
        if unet.get("addition_embed_type") is not None:
            raise ValueError(f"its UNet wants {unet['addition_embed_type']} beside the prompt")
        base = _BASES.get(unet["cross_attention_dim"], "") if unet["block_out_channels"][0] == REAL_WIDTH else ""
        return unet_facts(configs, base)

    def call(self, rows: Rows) -> dict[str, Any]:
        """See Architecture."""
        return {
            "sample": rows.inputs,
            "timestep": rows.timesteps,
            "encoder_hidden_states": rows.texts["states"],
            "encoder_attention_mask": rows.texts.get("states" + MASK),
        }
