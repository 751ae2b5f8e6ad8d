"""SDXL, base and turbo: a UNet that reads two CLIP text encoders, and is told the picture's size.

Reference: StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline. Sizes are as they have them by
default: original and target size are the picture's, and nothing is cropped.
"""

from typing import Any, ClassVar

import torch

from collodion.worker.families.architecture import MASK, Configs, Facts, Prompt, Rows, Texts
from collodion.worker.families.unets import REAL_WIDTH, UnetArchitecture, unet_facts
from collodion.worker.prompting.prompter import EncodedPrompt


class StableDiffusionXL(UnetArchitecture):
    """See the module."""

    family: ClassVar[str] = "stable-diffusion-xl"
    pipelines: ClassVar[tuple[str, ...]] = (
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
    )
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2")
    penultimate: ClassVar[bool] = True

    @classmethod
    def facts(cls, configs: Configs) -> Facts:
        """See Architecture."""
        unet = configs["unet"]
        if unet.get("addition_embed_type") != "text_time":
            raise ValueError("its UNet does not take a text and sizes beside the prompt")
        if "text_encoder" not in configs:
            raise ValueError("it has one text encoder: it is a refiner, which goes on with another model's latents")
        return unet_facts(configs, "sdxl" if unet["block_out_channels"][0] == REAL_WIDTH else "")

    def texts(self, prompt: Prompt, encoded: EncodedPrompt) -> Texts:
        """See UnetArchitecture. `pooled`: (width,). No negative prompt is not an empty one: the model was trained with zeros for it."""
        assert encoded.pooled is not None
        if prompt.negative and not prompt.text and self.pipeline.config.get("force_zeros_for_empty_prompt"):
            return {"states": torch.zeros_like(encoded.states), "pooled": torch.zeros_like(encoded.pooled)}
        return {"states": encoded.states, "pooled": encoded.pooled}

    def call(self, rows: Rows) -> dict[str, Any]:
        """See Architecture."""
        height, width = (side * self.vae.factor for side in rows.inputs.shape[2:])
        # Filled in on the device: a copy from the host would wait for it.
        sizes = [rows.inputs.new_full((len(rows.inputs),), number) for number in (height, width, 0, 0, height, width)]
        added = {"text_embeds": rows.texts["pooled"], "time_ids": torch.stack(sizes, dim=1)}
        return {
            "sample": rows.inputs,
            "timestep": rows.timesteps,
            "encoder_hidden_states": rows.texts["states"],
            "encoder_attention_mask": rows.texts.get("states" + MASK),
            "added_cond_kwargs": added,
        }
