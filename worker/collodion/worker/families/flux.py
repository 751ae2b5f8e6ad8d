"""FLUX.1, dev and schnell: a transformer that reads T5, and what CLIP makes of the whole prompt.

Reference: FluxPipeline.

1. dev was distilled with guidance as one of its inputs: one row a latent, whatever the scale, and no negative prompt. schnell knows none.
2. The transformer sees a latent packed, 2x2 pixels in a token; so do diffusers' schedulers, which matters where they draw noise.
3. Both read 512 tokens of T5, as FluxPipeline does unless it is told otherwise; schnell's authors call it with 256.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from collodion.wire.jobs import Parameters
from collodion.worker.families.architecture import Configs, Facts, Rows, Texts
from collodion.worker.families.plain_prompts import BatchedPrompts
from collodion.worker.families.text_window import TextWindow
from collodion.worker.families.vae import spatial_factor
from collodion.worker.sampling.timetable import Timetable, even_sigmas, shift_for
from collodion.worker.step_cache.stream_parts import FluxParts

_TOKENS = 512  # of T5
_PATCH = 2  # latent pixels on a token's side
_NATIVE = 128  # latent pixels on a side, which FluxPipeline takes for every model
_TRAIN_TIMESTEPS = 1000
_REAL_WIDTH = 3072


class Flux(BatchedPrompts):
    """See the module."""

    family: ClassVar[str] = "flux"
    pipelines: ClassVar[tuple[str, ...]] = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    negative_prompts: ClassVar[bool] = False
    # In float16 it overflows, of which diffusers clips what it can, and T5 fails on some GPUs.
    gpu_dtype: ClassVar[torch.dtype] = torch.bfloat16
    step_cache: ClassVar[bool] = True

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        self._takes_guidance = bool(self.denoiser.config.guidance_embeds)

    @classmethod
    def facts(cls, configs: Configs) -> Facts:
        """See Architecture."""
        transformer, vae = configs["transformer"], configs["vae"]
        channels = transformer["in_channels"]
        if channels != vae["latent_channels"] * _PATCH**2 or transformer.get("out_channels") not in (None, channels):
            raise ValueError(f"its transformer takes {channels} channels: more than a latent (fill, depth, canny)")
        if not {"text_encoder", "text_encoder_2"} <= configs.keys():
            raise ValueError("it lacks one of its text encoders")
        guided = bool(transformer.get("guidance_embeds"))
        few_steps = not guided and not configs["scheduler"].get("use_dynamic_shifting")
        factor = spatial_factor(vae)
        width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
        return Facts(
            native=(_NATIVE * factor, _NATIVE * factor),
            multiple=_PATCH * factor,
            text_tokens=_TOKENS - 1,
            guided_rows=1,
            base="flux1" if width == _REAL_WIDTH else "",
            steps=4 if few_steps else 28,
            guidance_scale=3.5 if guided else 0.0,
            sampler="euler",
            timetable=lambda steps: _timetable(configs["scheduler"], steps, (_NATIVE // _PATCH) ** 2),
        )

    def text_window(self) -> TextWindow:
        """See Architecture. What is too long for CLIP is not lost: T5 reads it."""
        return TextWindow(self.pipeline.tokenizer_2, _TOKENS - 1)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """See Architecture."""
        return self.denoiser.config.in_channels // _PATCH**2, height // self.vae.factor, width // self.vae.factor

    def timetable(self, parameters: Parameters) -> Timetable:
        """See Architecture."""
        _, height, width = self.latent_shape(parameters.width, parameters.height)
        return _timetable(self.pipeline.scheduler.config, parameters.steps, height // _PATCH * (width // _PATCH))

    def remarks(self, parameters: Parameters) -> list[tuple[str, str]]:
        """See Architecture."""
        remarks = super().remarks(parameters)
        if parameters.guided and not self._takes_guidance:
            scale = f"{parameters.guidance_scale:g}"
            remarks.append(
                ("GUIDANCE_IGNORED", f"{parameters.model} draws without guidance: a scale of {scale} changes nothing")
            )
        return remarks

    def sampler_noise(self, drawn: torch.Tensor) -> torch.Tensor:
        """See Architecture."""
        channels, height, width = drawn.shape[1:]
        return self._unpacked(drawn.reshape(1, -1, channels * _PATCH**2), height, width)

    def encode(self, prompts: Sequence[str], negative: Sequence[bool]) -> list[Texts]:  # noqa: ARG002 - there are none
        """See Architecture. `states`: (tokens, width), `pooled`: (width,)."""
        states, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.denoiser.device, num_images_per_prompt=1, max_sequence_length=_TOKENS
        )
        return [{"states": one, "pooled": other} for one, other in zip(states, pooled, strict=True)]

    def call(self, rows: Rows) -> dict[str, Any]:
        """See Architecture."""
        height, width = rows.inputs.shape[2:]
        dtype, states = rows.inputs.dtype, rows.texts["states"]
        return {
            "hidden_states": self.pipeline._pack_latents(rows.inputs, *rows.inputs.shape),
            "timestep": rows.timesteps.to(dtype) / _TRAIN_TIMESTEPS,
            "guidance": rows.guidance if self._takes_guidance else None,
            "encoder_hidden_states": states,
            "pooled_projections": rows.texts["pooled"],
            "txt_ids": states.new_zeros(states.shape[1], 3),
            "img_ids": _positions(height // _PATCH, width // _PATCH, rows.inputs.device).to(dtype),
        }

    def answer(self, output: Any, rows: Rows) -> torch.Tensor:
        """See Architecture."""
        return self._unpacked(output, *rows.inputs.shape[2:])

    def parts(self) -> FluxParts:
        """See Architecture."""
        return FluxParts(self.denoiser)

    def _unpacked(self, packed: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """(N, tokens, 4 · C) to (N, C, height, width), the latter in latent pixels."""
        unpacked: torch.Tensor = self.pipeline._unpack_latents(packed, height, width, 1)
        return unpacked


def _positions(height: int, width: int, device: torch.device) -> torch.Tensor:
    """int64 (tokens, 3): 0, row and column of each. Made on the device: FluxPipeline's own would wait for it at every step."""
    return torch.cartesian_prod(*(torch.arange(many, device=device) for many in (1, height, width)))


def _timetable(scheduler: Mapping[str, Any], steps: int, tokens: int) -> Timetable:
    """tokens: of the picture."""
    mu = shift_for(tokens, scheduler) if scheduler.get("use_dynamic_shifting") else None
    return Timetable(mu, even_sigmas(steps), spares_flow_sigmas=True)
