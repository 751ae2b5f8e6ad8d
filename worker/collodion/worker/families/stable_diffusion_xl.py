"""SDXL, base and turbo: a UNet that reads two CLIP text encoders, and is told the picture's size.

Reference: StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline. Sizes are as they have them by
default: original and target size are the picture's, and nothing is cropped.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from collodion.worker.families.architecture import MASK, Architecture, Configs, Facts, Rows, Texts
from collodion.worker.families.unets import latent_sides, sees_masks, unet_facts

_REAL_WIDTH = 320


class StableDiffusionXL(Architecture):
    """See the module."""

    family: ClassVar[str] = "stable-diffusion-xl"
    pipelines: ClassVar[tuple[str, ...]] = (
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
    )
    denoiser_part: ClassVar[str] = "unet"
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        self.sees_masks = sees_masks(pipeline)

    @classmethod
    def facts(cls, configs: Configs) -> Facts:
        """See Architecture."""
        unet = configs["unet"]
        if unet.get("addition_embed_type") != "text_time":
            raise ValueError("its UNet does not take a text and sizes beside the prompt")
        if "text_encoder" not in configs or configs["model_index"].get("requires_aesthetics_score"):
            raise ValueError("it is a refiner, which goes on with another model's latents")
        return unet_facts(configs, "sdxl" if unet["block_out_channels"][0] == _REAL_WIDTH else "")

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """See Architecture."""
        return (self.pipeline.vae.config.latent_channels, *latent_sides(self.vae, width, height))

    def encode(self, prompts: Sequence[str], negative: Sequence[bool]) -> list[Texts]:
        """See Architecture. `states`: (tokens, width), `pooled`: (width,)."""
        states, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.denoiser.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return [
            self._zeroed(one, other) if is_negative and not prompt else {"states": one, "pooled": other}
            for prompt, is_negative, one, other in zip(prompts, negative, states, pooled, strict=True)
        ]

    def predict(self, rows: Rows) -> torch.Tensor:
        """See Architecture."""
        height, width = (side * self.vae.factor for side in rows.inputs.shape[2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=rows.inputs.dtype)
        added = {
            "text_embeds": rows.texts["pooled"],
            "time_ids": sizes.to(rows.inputs.device, non_blocking=True).repeat(len(rows.inputs), 1),
        }
        predicted: torch.Tensor = self.denoiser(
            rows.inputs,
            rows.timesteps,
            encoder_hidden_states=rows.texts["states"],
            encoder_attention_mask=rows.texts.get("states" + MASK),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return predicted

    def _zeroed(self, states: torch.Tensor, pooled: torch.Tensor) -> dict[str, Any]:
        """No negative prompt is not an empty one: the model was trained with zeros for it, if its pipeline says so."""
        if not self.pipeline.config.get("force_zeros_for_empty_prompt"):
            return {"states": states, "pooled": pooled}
        return {"states": torch.zeros_like(states), "pooled": torch.zeros_like(pooled)}
