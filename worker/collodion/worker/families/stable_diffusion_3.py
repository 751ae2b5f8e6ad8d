"""Stable Diffusion 3 and 3.5: a transformer that reads two CLIP text encoders and, if it is there, T5.

Reference: StableDiffusion3Pipeline. T5 is larger than the rest together and often left out: zeros stand for it then.
The transformer takes no mask for its texts, so that all have one length.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from collodion.wire.jobs import Parameters
from collodion.worker.families.architecture import Configs, Facts, Rows, Texts
from collodion.worker.families.plain_prompts import BatchedPrompts
from collodion.worker.families.text_window import TextWindow
from collodion.worker.families.vae import spatial_factor
from collodion.worker.sampling.timetable import OWN, Timetable, shift_for
from collodion.worker.step_cache.stream_parts import StableDiffusion3Parts

_TOKENS = 256  # of T5
_T5 = "text_encoder_3"
_REAL_WIDTHS = (1536, 2432)  # of medium and large
_MAX_SHIFT = 1.16  # of StableDiffusion3Pipeline, unlike the other pipelines' 1.15, where the scheduler does not say


class StableDiffusion3(BatchedPrompts):
    """See the module."""

    family: ClassVar[str] = "stable-diffusion-3"
    pipelines: ClassVar[tuple[str, ...]] = (
        "StableDiffusion3Pipeline",
        "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3InpaintPipeline",
    )
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2", _T5)
    spared: ClassVar[tuple[str, ...]] = (_T5, "tokenizer_3")
    # 3.5 is published in it, and in float16 T5 fails on some GPUs.
    gpu_dtype: ClassVar[torch.dtype] = torch.bfloat16
    step_cache: ClassVar[bool] = True

    @classmethod
    def facts(cls, configs: Configs) -> Facts:
        """See Architecture."""
        transformer, channels = configs["transformer"], configs["vae"]["latent_channels"]
        if {transformer["in_channels"], transformer.get("out_channels") or channels} != {channels}:
            raise ValueError(f"its transformer takes {transformer['in_channels']} channels: more than a latent")
        if not {"text_encoder", "text_encoder_2"} <= configs.keys():
            raise ValueError("it lacks one of its CLIP text encoders")
        factor = spatial_factor(configs["vae"])
        side = factor * transformer["patch_size"]  # pixels on the side of a token
        width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
        return Facts(
            native=(transformer["sample_size"] * factor,) * 2,
            multiple=side,
            text_tokens=_TOKENS - 1 if _T5 in configs else int(configs["tokenizer"]["model_max_length"]) - 2,
            guided_rows=2,
            base="sd3" if width in _REAL_WIDTHS else "",
            steps=28,
            guidance_scale=7.0,
            sampler="euler",
            timetable=lambda _: _timetable(
                configs["scheduler"], (transformer["sample_size"] // transformer["patch_size"]) ** 2
            ),
            most_pixels=(transformer.get("pos_embed_max_size") or 0) * side or None,
        )

    def timetable(self, parameters: Parameters) -> Timetable:
        """See Architecture."""
        _, height, width = self.latent_shape(parameters.width, parameters.height)
        patch = self.denoiser.config.patch_size
        return _timetable(self.pipeline.scheduler.config, height // patch * (width // patch))

    def text_window(self) -> TextWindow:
        """See Architecture. What is too long for CLIP is not lost where T5 reads it."""
        if self.pipeline.text_encoder_3 is None:
            return super().text_window()
        return TextWindow(self.pipeline.tokenizer_3, _TOKENS - 1)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """See Architecture."""
        return self.denoiser.config.in_channels, height // self.vae.factor, width // self.vae.factor

    def encode(self, prompts: Sequence[str], negative: Sequence[bool]) -> list[Texts]:  # noqa: ARG002 - all are read alike
        """See Architecture. `states`: (tokens, width), `pooled`: (width,)."""
        states, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts),
            None,
            None,
            device=self.denoiser.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            max_sequence_length=_TOKENS,
        )
        return [{"states": one, "pooled": other} for one, other in zip(states, pooled, strict=True)]

    def call(self, rows: Rows) -> dict[str, Any]:
        """See Architecture."""
        return {
            "hidden_states": rows.inputs,
            "timestep": rows.timesteps,
            "encoder_hidden_states": rows.texts["states"],
            "pooled_projections": rows.texts["pooled"],
        }

    def parts(self) -> StableDiffusion3Parts:
        """See Architecture."""
        return StableDiffusion3Parts(self.denoiser)


def _timetable(scheduler: Mapping[str, Any], tokens: int) -> Timetable:
    """tokens: of the picture."""
    if not scheduler.get("use_dynamic_shifting"):
        return OWN
    return Timetable(shift_for(tokens, {"max_shift": _MAX_SHIFT, **scheduler}))
