"""What an architecture does in its own way; all else is `LatentDiffusion`'s. One file per architecture.

1. It reuses diffusers' pipeline for it: tokenizers, text encoders, `encode_prompt`, VAE, image processor. Only the loop is ours.
2. A prompt becomes `Texts`: tensors by name, without a batch axis, the same names for every prompt. Where prompts may have different
   numbers of tokens, `collate` pads them and makes a mask.
3. Rows of a model call: every latent with its prompt, then the guided ones again with their negative prompt. All are of one size.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from collodion.worker.families.vae import Vae

Texts = Mapping[str, torch.Tensor]
"""What the text encoders made of one prompt."""

Configs = Mapping[str, Mapping[str, Any]]
"""The configurations of a model's parts, by the names that they have in its pipeline; of a tokenizer too."""

MASK = "_mask"
"""Ends the name of the mask of a text tensor of mixed lengths."""


@dataclass(frozen=True)
class Facts:
    """What the configurations say of a model, for `describe`.

    native, multiple: pixels. text_tokens: of a prompt, at most. guided_rows: how many rows a guided latent takes. base: see ModelInfo.
    """

    native: tuple[int, int]
    multiple: int
    text_tokens: int
    guided_rows: int
    base: str
    steps: int = 25
    guidance_scale: float = 7.5
    sampler: str = "dpmpp_2m"
    init_images: bool = False
    masks: bool = False


@dataclass(frozen=True, eq=False)
class Rows:
    """One model call. inputs: (rows, C, H, W), of the model's dtype. timesteps: float32 (rows,), as the scheduler counts them.

    texts: each with the rows before its own axes. guidance: float32 (rows,).
    """

    inputs: torch.Tensor
    timesteps: torch.Tensor
    texts: Texts
    guidance: torch.Tensor


class Architecture(ABC):
    """One architecture around one loaded diffusers pipeline. `denoiser` is the part that is called at every step."""

    family: ClassVar[str]
    pipelines: ClassVar[tuple[str, ...]]
    denoiser_part: ClassVar[str] = "transformer"
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    negative_prompts: ClassVar[bool] = True

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.denoiser = getattr(pipeline, self.denoiser_part)
        self.vae = Vae(pipeline.vae, pipeline.image_processor, pipeline.vae_scale_factor)
        self.sees_masks = False  # whether the denoiser is given mask and picture as channels behind the latent's

    @classmethod
    @abstractmethod
    def facts(cls, configs: Configs) -> Facts:
        """Raises ValueError, KeyError or TypeError for configurations of something that this architecture does not run."""

    @abstractmethod
    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, H, W) of the latent of a picture of so many pixels."""

    @abstractmethod
    def encode(self, prompts: Sequence[str], negative: Sequence[bool]) -> list[Texts]:
        """The texts of these prompts; `negative` says which of them are negative ones."""

    @abstractmethod
    def predict(self, rows: Rows) -> torch.Tensor:
        """The model's output as its scheduler wants it: (rows, C, H, W)."""

    def guide(self, prompted: torch.Tensor, negative: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Classifier-free guidance (Ho and Salimans 2022, equation 6, as diffusers counts its scale).

        prompted, negative: float32 (latents, C, H, W). scales: float32 (latents, 1, 1, 1).
        """
        return negative + scales * (prompted - negative)


def collate(texts: Sequence[Texts], size: int) -> dict[str, torch.Tensor]:
    """The texts of `size` rows, zeros behind the last; what differs in its first axis is padded with zeros and gets a bool mask."""
    collated: dict[str, torch.Tensor] = {}
    for name in texts[0]:
        tensors = [text[name] for text in texts]
        longest = max(len(tensor) for tensor in tensors)
        if tensors[0].dim() > 1 and any(len(tensor) < longest for tensor in tensors):
            ones = [torch.ones(len(tensor), dtype=torch.bool, device=tensor.device) for tensor in tensors]
            collated[name + MASK] = pad(torch.stack([pad(one, longest) for one in ones]), size)
            tensors = [pad(tensor, longest) for tensor in tensors]
        collated[name] = pad(torch.stack(tensors), size)
    return collated


def pad(rows: torch.Tensor, size: int) -> torch.Tensor:
    """`rows` with zeros behind them up to `size` rows; a `size` below their number changes nothing."""
    if size <= len(rows):
        return rows
    return torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])
