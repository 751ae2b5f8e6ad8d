"""Qwen-Image: a transformer that reads a prompt, as a vision-language model understood it, in one sequence with the picture.

Reference: QwenImagePipeline.

1. The guidance scale is what that calls true_cfg_scale. None for a negative prompt is an empty one, within the template that every
   prompt is put in; the pipeline, given none, does not guide.
2. A text has as many tokens as it has. Where they differ, a mask keeps what they are padded with out of the attention.
3. The transformer sees a latent packed, 2x2 pixels in a token; so do diffusers' schedulers, which matters where they draw noise.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from collodion.wire.jobs import Parameters
from collodion.worker.families.architecture import MASK, Configs, Facts, Prompt, Rows, Texts
from collodion.worker.families.plain_prompts import PlainPrompts
from collodion.worker.families.text_window import TextWindow
from collodion.worker.families.vae import Posterior, Vae
from collodion.worker.prompting.prompter import Around
from collodion.worker.sampling.timetable import Timetable, even_sigmas, shift_for
from collodion.worker.step_cache.stream_parts import QwenImageParts

_TOKENS = 512  # the pipeline's max_sequence_length; what closes the template counts, and is the first to be cut off
_PATCH = 2  # latent pixels on a token's side
_NATIVE = 1328  # the square among the sizes that its makers name
_TRAIN_TIMESTEPS = 1000
_REAL_WIDTH = 3072
_OTHERS = {
    "guidance_embeds": "takes guidance as an input, which diffusers does not run",
    "zero_cond_t": "edits pictures",
    "use_additional_t_cond": "draws layers",
    "use_layer3d_rope": "draws layers",
}


class QwenImage(PlainPrompts):
    """See the module."""

    family: ClassVar[str] = "qwen-image"
    pipelines: ClassVar[tuple[str, ...]] = ("QwenImagePipeline",)
    any_lengths: ClassVar[bool] = True
    gpu_dtype: ClassVar[torch.dtype] = torch.bfloat16  # as published; in float16 diffusers clips what overflows
    step_cache: ClassVar[bool] = True

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        self.vae = FilmVae(pipeline.vae, pipeline.image_processor, pipeline.vae_scale_factor)

    @classmethod
    def facts(cls, configs: Configs) -> Facts:
        """See Architecture."""
        transformer, vae = configs["transformer"], configs["vae"]
        for option, what in _OTHERS.items():
            if transformer.get(option):
                raise ValueError(f"its transformer has {option}: it {what}")
        channels = transformer["in_channels"]
        if channels != vae["z_dim"] * _PATCH**2 or transformer.get("out_channels") not in (None, vae["z_dim"]):
            raise ValueError(f"its transformer takes {channels} channels: more than a latent")
        side = _PATCH * 2 ** len(vae["temperal_downsample"])  # pixels on the side of a token
        width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
        return Facts(
            native=(_NATIVE, _NATIVE),
            multiple=side,
            text_tokens=_TOKENS,
            guided_rows=2,
            base="qwen-image" if width == _REAL_WIDTH else "",
            steps=50,
            guidance_scale=4.0,
            sampler="euler",
            timetable=lambda steps: _timetable(configs["scheduler"], steps, (_NATIVE // side) ** 2),
        )

    def text_window(self) -> TextWindow:
        """See Architecture."""
        return TextWindow(self.pipeline.tokenizer, _TOKENS)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """See Architecture."""
        return self.pipeline.vae.config.z_dim, height // self.vae.factor, width // self.vae.factor

    def timetable(self, parameters: Parameters) -> Timetable:
        """See Architecture."""
        _, height, width = self.latent_shape(parameters.width, parameters.height)
        return _timetable(self.pipeline.scheduler.config, parameters.steps, height // _PATCH * (width // _PATCH))

    def sampler_noise(self, drawn: torch.Tensor) -> torch.Tensor:
        """See Architecture."""
        rows, channels, height, width = drawn.shape
        return unpacked(drawn.reshape(rows, -1, channels * _PATCH**2), height, width)

    def encode_prompts(self, prompts: Sequence[Prompt], around: Around, rows: int) -> list[Texts]:  # noqa: ARG002 - see below
        """See Architecture. `states`: (tokens, width).

        One after the other: side by side the short ones are padded to the longest, and rounded by it.
        """
        texts: list[Texts] = []
        for number, prompt in enumerate(prompts):
            with around([0], [number]):
                encoded = self.pipeline.encode_prompt(prompt.text, self.denoiser.device, max_sequence_length=_TOKENS)
            texts.append({"states": encoded[0][0]})
        return texts

    def call(self, rows: Rows) -> dict[str, Any]:
        """See Architecture."""
        batch, _, height, width = rows.inputs.shape
        return {
            "hidden_states": packed(rows.inputs),
            "timestep": rows.timesteps.to(rows.inputs.dtype) / _TRAIN_TIMESTEPS,
            "encoder_hidden_states": rows.texts["states"],
            "encoder_hidden_states_mask": rows.texts.get("states" + MASK),
            "img_shapes": [[(1, height // _PATCH, width // _PATCH)]] * batch,
        }

    def answer(self, output: Any, rows: Rows) -> torch.Tensor:
        """See Architecture."""
        return unpacked(output, *rows.inputs.shape[2:])

    def parts(self) -> QwenImageParts:
        """See Architecture."""
        return QwenImageParts(self.denoiser)

    def guide(self, prompted: torch.Tensor, negative: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """See Architecture. Each token is then as long as the prompt alone would make it."""
        height, width = prompted.shape[2:]
        guided = packed(super().guide(prompted, negative, scales))
        lengths = packed(prompted).norm(dim=-1, keepdim=True)
        return unpacked(guided * (lengths / guided.norm(dim=-1, keepdim=True)), height, width)


class FilmVae(Vae):
    """AutoencoderKLQwenImage encodes films; a picture is one of a single frame."""

    def _encoded(self, pictures: torch.Tensor) -> Posterior:
        films = super()._encoded(pictures[:, :, None])
        return Posterior(films.mean[:, :, 0], films.std[:, :, 0])

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        return super()._decoded(latents[:, :, None])[:, :, 0]


def packed(latents: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) to (N, tokens, 4 · C)."""
    rows, channels, height, width = latents.shape
    patches = latents.reshape(rows, channels, height // _PATCH, _PATCH, width // _PATCH, _PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(rows, -1, channels * _PATCH**2)


def unpacked(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(N, tokens, 4 · C) to (N, C, height, width), the latter in latent pixels."""
    rows, _, channels = tokens.shape
    patches = tokens.reshape(rows, height // _PATCH, width // _PATCH, channels // _PATCH**2, _PATCH, _PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(rows, -1, height, width)


def _timetable(scheduler: Mapping[str, Any], steps: int, tokens: int) -> Timetable:
    """tokens: of the picture."""
    return Timetable(shift_for(tokens, scheduler), even_sigmas(steps))
