"""What an architecture does in its own way; all else is `LatentDiffusion`'s. One file per architecture.

1. It reuses diffusers' pipeline for it: tokenizers, text encoders, `encode_prompt`, VAE, image processor. Only the loop is ours.
2. A prompt becomes `Texts`: tensors by name, without a batch axis, the same names for every prompt. Where prompts may have different
   numbers of tokens, `collate` pads them and makes a mask.
3. Rows of a model call: every latent with its prompt, then the guided ones again with their negative prompt. All are of one size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from collodion.wire.jobs import Parameters, PromptSyntax
from collodion.worker.adapters.loaded import Use
from collodion.worker.families.vae import Vae
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.prompting.embeddings import Embedding
from collodion.worker.prompting.prompter import Around
from collodion.worker.prompting.reading import ReadPrompt
from collodion.worker.sampling.timetable import OWN, Timetable

if TYPE_CHECKING:
    from collodion.worker.step_cache.parts import Parts

Texts = Mapping[str, torch.Tensor]
"""What the text encoders made of one prompt."""

Configs = Mapping[str, Mapping[str, Any]]
"""The configurations of a model's parts, by the names that they have in its pipeline; of a tokenizer too."""

MASK = "_mask"
"""Ends the name of the mask of a text tensor of mixed lengths."""


WHATS = (("prompt", False), ("negative prompt", True))
"""How a job's prompts are called, and which is the negative one."""


@dataclass(frozen=True)
class Prompt:
    """A prompt that was read. `chunks`: as the text encoders will read it, for an architecture that reads weights.

    uses: the adapters that the text encoders have for it; `key` tells them. warnings: (reason, message) pairs for the client.
    """

    text: str
    negative: bool
    chunks: ReadPrompt | None = None
    uses: tuple[Use, ...] = field(default=(), compare=False)
    key: Hashable = field(init=False)
    warnings: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", tuple((use.adapter.key, use.scale) for use in self.uses))


def _own_timetable(steps: int) -> Timetable:  # noqa: ARG001 - the scheduler's own, whatever the steps
    return OWN


@dataclass(frozen=True)
class Facts:
    """What the configurations say of a model, for `describe`.

    native, multiple: pixels. text_tokens: of a prompt, at most. guided_rows: how many rows a guided latent takes. base: see ModelInfo.
    most_pixels: of a side, where the model knows no more positions. timetable: of a native picture, by the number of steps.
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
    most_pixels: int | None = None
    timetable: Callable[[int], Timetable] = _own_timetable


@dataclass(frozen=True, eq=False)
class Rows:
    """One model call. inputs: (rows, C, H, W), of the model's dtype. timesteps: float32 (rows,), as the scheduler counts them.

    texts: each with the rows before its own axes. guidance: float32 (rows,). lengths: how many tokens the texts of each row have; rows that
    only fill the call up have none.
    """

    inputs: torch.Tensor
    timesteps: torch.Tensor
    texts: Texts
    guidance: torch.Tensor
    lengths: tuple[int, ...]


class Architecture(ABC):
    """One architecture around one loaded diffusers pipeline. `denoiser` is the part that is called at every step.

    `spared` are parts of the pipeline that a model may come without. `gpu_dtype`: what it computes in on a GPU, unless the settings name
    a precision. `step_cache`: whether it has `parts`. `noise_dtype`: what a latent's noise is drawn in, if not in that. `unadapted` are
    beginnings of paths ("transformer.cap_embedder") of modules that are not called row by row. `any_lengths`: prompts have any number of
    tokens, and `predict` takes a mask for them. `ragged`: it takes no mask, but each row's text as long as it is.
    """

    family: ClassVar[str]
    pipelines: ClassVar[tuple[str, ...]]
    denoiser_part: ClassVar[str] = "transformer"
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    negative_prompts: ClassVar[bool] = True
    weighted_prompts: ClassVar[bool] = False
    unadapted: ClassVar[tuple[str, ...]] = ()
    spared: ClassVar[tuple[str, ...]] = ()
    gpu_dtype: ClassVar[torch.dtype] = torch.float16
    step_cache: ClassVar[bool] = False
    noise_dtype: ClassVar[torch.dtype | None] = None
    any_lengths: ClassVar[bool] = False
    ragged: ClassVar[bool] = False

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

    def timetable(self, parameters: Parameters) -> Timetable:  # noqa: ARG002 - for those whose schedule depends on them
        """What its pipeline hands to the scheduler beside the number of steps."""
        return OWN

    def sampler_noise(self, drawn: torch.Tensor) -> torch.Tensor:
        """What a scheduler adds, (1, C, H, W), of the numbers that it drew: for those whose pipelines show it latents in another shape."""
        return drawn

    def remarks(self, parameters: Parameters) -> list[tuple[str, str]]:
        """Warnings, (reason, message), on what of these parameters it cannot honour."""
        if parameters.negative_prompt and not self.negative_prompts:
            return [("NEGATIVE_PROMPT_IGNORED", f"{parameters.model} reads no negative prompt")]
        return []

    @abstractmethod
    def read(
        self,
        prompts: Sequence[str],
        syntax: PromptSyntax,
        embeddings: Mapping[str, Embedding],
        uses: tuple[Use, ...],
    ) -> list[Prompt]:
        """A job's prompt and, if it is guided by one, its negative prompt. Any thread. Raises LatentRefused."""

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[Prompt], around: Around, rows: int) -> list[Texts]:
        """The texts of these prompts. `rows`: how many prompts are encoded at least, so that the kernels that run are always the same."""

    @abstractmethod
    def call(self, rows: Rows) -> dict[str, Any]:
        """What the denoiser is called with, by the names of its parameters."""

    def answer(self, output: Any, rows: Rows) -> torch.Tensor:  # noqa: ARG002 - for those whose denoiser sees latents in another shape
        """What the denoiser returned, as the scheduler wants it: (rows, C, H, W)."""
        answer: torch.Tensor = output
        return answer

    def predict(self, rows: Rows) -> torch.Tensor:
        """The model's output as its scheduler wants it: (rows, C, H, W)."""
        return self.answer(self.denoiser(**self.call(rows), return_dict=False)[0], rows)

    def parts(self) -> "Parts[Any]":
        """The denoiser in three, of which step caches leave one out. Raises Unsuitable if it cannot be had so."""
        raise Unsuitable(f"no parts of a {self.family} model are known that could be left out")

    def guide(self, prompted: torch.Tensor, negative: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Classifier-free guidance (Ho and Salimans 2022, equation 6, as diffusers counts its scale).

        prompted, negative: float32 (latents, C, H, W). scales: float32 (latents, 1, 1, 1).
        """
        return negative + scales * (prompted - negative)


def collate(texts: Sequence[Texts], size: int, multiple: int = 0) -> dict[str, torch.Tensor]:
    """The texts of `size` rows, zeros behind the last; what differs in its first axis is padded with zeros and gets a bool mask.

    multiple: of tokens, to which all are padded, so that their shapes are few; they have a mask then, whatever their lengths.
    """
    collated: dict[str, torch.Tensor] = {}
    for name in texts[0]:
        tensors = [text[name] for text in texts]
        longest = max(len(tensor) for tensor in tensors)
        longest = -(-longest // multiple) * multiple if multiple else longest
        if tensors[0].dim() > 1 and (multiple or any(len(tensor) < longest for tensor in tensors)):
            ones = [torch.ones(len(tensor), dtype=torch.bool, device=tensor.device) for tensor in tensors]
            collated[name + MASK] = pad(torch.stack([pad(one, longest) for one in ones]), size)
            tensors = [pad(tensor, longest) for tensor in tensors]
        collated[name] = pad(torch.stack(tensors), size)
    return collated


def length(texts: Texts) -> int:
    """How many tokens the longest of these texts has."""
    return max((len(tensor) for tensor in texts.values() if tensor.dim() > 1), default=0)


def pad(rows: torch.Tensor, size: int) -> torch.Tensor:
    """`rows` with zeros behind them up to `size` rows; a `size` below their number changes nothing."""
    if size <= len(rows):
        return rows
    return torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])
