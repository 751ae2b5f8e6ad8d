"""What Stable Diffusion and SDXL have in common: a UNet, CLIP text encoders whose prompts may have weights, masks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from collodion.wire.jobs import Failure, PromptSyntax, Reason
from collodion.worker.adapters.loaded import Use
from collodion.worker.families.architecture import WHATS, Architecture, Configs, Facts, Prompt, Texts
from collodion.worker.pipeline import LatentRefused
from collodion.worker.prompting.embeddings import Embedding, EmbeddingUnusable
from collodion.worker.prompting.prompter import Around, EncodedPrompt, Prompter
from collodion.worker.step_cache.unet_parts import UnetParts

_PIXEL_MULTIPLE = 8  # what diffusers' pipelines ask for, whatever the VAE
REAL_WIDTH = 320
"""Of the first block: adapters for real ones do not fit a smaller model."""
_INPAINTING_CHANNELS = 5  # of the mask and of what it leaves


class UnetArchitecture(Architecture):
    """Of these two. `penultimate`: whether it reads the text encoders' states before their last layer."""

    denoiser_part: ClassVar[str] = "unet"
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    penultimate: ClassVar[bool] = False
    weighted_prompts: ClassVar[bool] = True
    step_cache: ClassVar[bool] = True

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        more = pipeline.unet.config.in_channels - pipeline.vae.config.latent_channels
        self.sees_masks = more == _INPAINTING_CHANNELS
        tokenizers, encoders = (
            [getattr(pipeline, name) for name in each] for each in (self.tokenizers, self.text_encoders)
        )
        self._prompter = Prompter(tokenizers, encoders, penultimate=self.penultimate)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """See Architecture."""
        factor = self.vae.factor
        return self.pipeline.vae.config.latent_channels, height // factor, width // factor

    def read(
        self,
        prompts: Sequence[str],
        syntax: PromptSyntax,
        embeddings: Mapping[str, Embedding],
        uses: tuple[Use, ...],
    ) -> list[Prompt]:
        """See Architecture. Both prompts of a job become equally long."""
        try:
            read = [
                self._prompter.prepare_plain(text, what)
                if syntax is PromptSyntax.PLAIN
                else self._prompter.prepare(text, embeddings, what)
                for text, (what, _) in zip(prompts, WHATS, strict=False)
            ]
        except EmbeddingUnusable as unusable:
            raise LatentRefused(Failure(reason=Reason.ADAPTER_UNUSABLE, message=unusable.reason)) from unusable
        return [
            Prompt(text, negative, chunks, uses, chunks.warnings)
            for text, chunks, (_, negative) in zip(prompts, self._prompter.padded(read), WHATS, strict=False)
        ]

    def encode_prompts(self, prompts: Sequence[Prompt], around: Around, rows: int) -> list[Texts]:
        """See Architecture."""
        read = [prompt.chunks for prompt in prompts if prompt.chunks is not None]
        keys = [prompt.key for prompt in prompts]
        encoded = self._prompter.encode(read, keys, around, rows)
        return [self.texts(prompt, one) for prompt, one in zip(prompts, encoded, strict=True)]

    def parts(self) -> UnetParts:
        """See Architecture."""
        return UnetParts(self.denoiser)

    def texts(self, prompt: Prompt, encoded: EncodedPrompt) -> Texts:  # noqa: ARG002 - for those who treat some in another way
        """What the UNet is given for this prompt. `states`: (tokens, width)."""
        return {"states": encoded.states}


def unet_facts(configs: Configs, base: str) -> Facts:
    """Of a model with a UNet and CLIP. Raises ValueError for what wants more than prompts, pictures and masks."""
    unet, vae = configs["unet"], configs["vae"]
    more = unet["in_channels"] - vae["latent_channels"]
    if more not in (0, _INPAINTING_CHANNELS) or unet["out_channels"] != vae["latent_channels"]:
        raise ValueError(f"its UNet wants {unet['in_channels']} channels: more than pictures and masks (depth, edits)")
    for option in ("time_cond_proj_dim", "class_embed_type", "encoder_hid_dim_type"):
        if unet.get(option) is not None:
            raise ValueError(f"its UNet has {option} = {unet[option]!r}")
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    height, width = (side * factor for side in _sides(unet["sample_size"]))
    return Facts(
        native=(width, height),
        multiple=math.lcm(_PIXEL_MULTIPLE, factor),
        text_tokens=_text_tokens(configs["tokenizer"]),
        guided_rows=2,
        base=base,
        init_images=True,
        masks=True,
    )


def _text_tokens(tokenizer: Mapping[str, Any]) -> int:
    return int(tokenizer["model_max_length"]) - 2  # its beginning and its end


def _sides(sample_size: Any) -> tuple[int, int]:
    return (sample_size, sample_size) if isinstance(sample_size, int) else tuple(sample_size)
