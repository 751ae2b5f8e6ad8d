"""Z-Image, base and turbo: a transformer over one sequence of the picture's tokens and the prompt's.

Reference: ZImagePipeline.

1. That counts guidance from 0, as prompted + g · (prompted - negative). We count as everywhere else, negative + w · (prompted - negative):
   w = g + 1. What its makers call 0 is 1 here, and their 4 is 5. No negative prompt is an empty one.
2. The transformer takes lists, of prompts of any length. It fills each up to a multiple of 32 tokens with a token that it has learned, and
   keeps the rest of the batch behind a mask.
3. The initial noise is drawn in float32, whatever the model computes in.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any, ClassVar

import torch
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas

from collodion.wire.jobs import Parameters
from collodion.worker.families.architecture import Configs, Facts, Rows, Texts
from collodion.worker.families.plain_prompts import BatchedPrompts
from collodion.worker.families.text_window import TextWindow
from collodion.worker.families.vae import spatial_factor
from collodion.worker.sampling.timetable import Timetable, shift_for
from collodion.worker.step_cache.z_image_parts import ZImageParts

_TOKENS = 512  # the pipeline's max_sequence_length, with the chat template around a prompt
_BEFORE_PROMPT = 3  # tokens of that template; those behind are the first to be cut off
_PATCH = 2  # latent pixels on a token's side
_NATIVE = 1024
_TRAIN_TIMESTEPS = 1000
_REAL_WIDTH = 3840
_TURBO_SHIFT = 3.0  # of its scheduler; the base model's is 6, and no other configuration tells them apart


class ZImage(BatchedPrompts):
    """See the module."""

    family: ClassVar[str] = "z-image"
    pipelines: ClassVar[tuple[str, ...]] = ("ZImagePipeline",)
    # Their rows are the tokens of all the batch, one behind the other.
    unadapted: ClassVar[tuple[str, ...]] = ("transformer.all_x_embedder", "transformer.cap_embedder")
    ragged: ClassVar[bool] = True
    gpu_dtype: ClassVar[torch.dtype] = torch.bfloat16  # as published
    step_cache: ClassVar[bool] = True
    noise_dtype: ClassVar[torch.dtype | None] = torch.float32

    @classmethod
    def facts(cls, configs: Configs) -> Facts:
        """See Architecture."""
        transformer, vae = configs["transformer"], configs["vae"]
        if _PATCH not in transformer["all_patch_size"] or 1 not in transformer["all_f_patch_size"]:
            raise ValueError(f"its transformer takes patches of {transformer['all_patch_size']}, not of {_PATCH}")
        if transformer["in_channels"] != vae["latent_channels"]:
            raise ValueError(f"its transformer takes {transformer['in_channels']} channels: more than a latent")
        side = _PATCH * spatial_factor(vae)  # pixels on the side of a token
        turbo = configs["scheduler"].get("shift", 1.0) <= _TURBO_SHIFT
        return Facts(
            native=(_NATIVE, _NATIVE),
            multiple=side,
            text_tokens=_TOKENS - _BEFORE_PROMPT,
            guided_rows=2,
            base="z-image" if transformer["dim"] == _REAL_WIDTH else "",
            steps=8 if turbo else 50,
            guidance_scale=1.0 if turbo else 5.0,
            sampler="euler",
            timetable=lambda steps: _timetable(configs["scheduler"], steps, (_NATIVE // side) ** 2),
            most_pixels=min(transformer["axes_lens"][1:]) * side,
        )

    def text_window(self) -> TextWindow:
        """See Architecture."""
        return TextWindow(self.pipeline.tokenizer, _TOKENS - _BEFORE_PROMPT)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """See Architecture."""
        return self.denoiser.config.in_channels, height // self.vae.factor, width // self.vae.factor

    def timetable(self, parameters: Parameters) -> Timetable:
        """See Architecture."""
        _, height, width = self.latent_shape(parameters.width, parameters.height)
        return _timetable(self.pipeline.scheduler.config, parameters.steps, height // _PATCH * (width // _PATCH))

    def encode(self, prompts: Sequence[str], negative: Sequence[bool]) -> list[Texts]:  # noqa: ARG002 - all are read alike
        """See Architecture. `states`: (tokens, width)."""
        states, _ = self.pipeline.encode_prompt(
            list(prompts), self.denoiser.device, do_classifier_free_guidance=False, max_sequence_length=_TOKENS
        )
        return [{"states": one} for one in states]

    def call(self, rows: Rows) -> dict[str, Any]:
        """See Architecture.

        Rows that only fill up have texts as long as the first row's and the last one's in turn: where all prompts are of one length and all
        negative ones of one, the tokens of all texts together are as many, however many of the rows are real.
        """
        filling = cycle((rows.lengths[0], rows.lengths[-1]))
        lengths = (*rows.lengths, *islice(filling, len(rows.inputs) - len(rows.lengths)))
        return {
            "x": list(rows.inputs[:, :, None]),
            "t": (_TRAIN_TIMESTEPS - rows.timesteps) / _TRAIN_TIMESTEPS,
            "cap_feats": [text[:length] for text, length in zip(rows.texts["states"], lengths, strict=True)],
        }

    def answer(self, output: Any, rows: Rows) -> torch.Tensor:  # noqa: ARG002 - the size is the output's
        """See Architecture."""
        return -torch.stack(output)[:, :, 0]

    def parts(self) -> ZImageParts:
        """See Architecture."""
        return ZImageParts(self.denoiser)


def _timetable(scheduler: Mapping[str, Any], steps: int, tokens: int) -> Timetable:
    """tokens: of the picture."""
    return Timetable(shift_for(tokens, scheduler), tuple(get_default_z_image_sigmas(steps)))
