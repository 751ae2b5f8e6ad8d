"""One model's prompts: read on any thread, encoded on the device's.

1. Chunks of a text are encoded each for itself, and their states put one behind the other; those of several encoders side by side.
2. Equal chunks of one call are encoded once, whichever prompts they are of, but where prompts have different keys: adapters of the
   text encoders make different states of one text.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from collodion.worker.prompting.chunks import Chunk
from collodion.worker.prompting.embeddings import Embedding
from collodion.worker.prompting.reading import NO_EMBEDDINGS, PromptReader, ReadPrompt, Tokens
from collodion.worker.prompting.text import TextEncoder, weighed

Around = Callable[[Sequence[int], Sequence[int]], AbstractContextManager[object]]
"""Wraps a call of some text encoders: their numbers (0, 1), and for each row of it the number of a prompt that it is of; -1: of none."""

MOST_CHUNKS = 8
_MOST_ROWS = 64  # chunks in one call: bounds its memory, far beyond where more rows would be faster
_Key = tuple[Hashable, Chunk]
_Row = tuple[torch.Tensor, torch.Tensor | None]


class EncodedPrompt(NamedTuple):
    """`states`: (tokens, width). `pooled`: (width,), of the last encoder's first chunk; None where there is none. Neither is a view."""

    states: torch.Tensor
    pooled: torch.Tensor | None


def _bare(_encoders: Sequence[int], _rows: Sequence[int]) -> AbstractContextManager[object]:
    return nullcontext()


class Prompter:
    """Reads and encodes prompts for the CLIP text encoders of a diffusers pipeline.

    `penultimate`: the model reads the states before the encoders' last layer. SDXL does; SD 2 does too, but diffusers leaves the
    layer out of its encoder. What does not fit into `most_chunks` is cut off with a warning.
    """

    def __init__(
        self,
        tokenizers: Sequence[Any],
        text_encoders: Sequence[Any],
        *,
        penultimate: bool,
        most_chunks: int = MOST_CHUNKS,
    ) -> None:
        pairs = zip(tokenizers, text_encoders, strict=True)
        self._reader = PromptReader(
            [Tokens(tokenizer, model.config, number) for number, (tokenizer, model) in enumerate(pairs)], most_chunks
        )
        self._encoders = [TextEncoder(model, penultimate) for model in text_encoders]

    def prepare(
        self, text: str, embeddings: Mapping[str, Embedding] = NO_EMBEDDINGS, what: str = "prompt"
    ) -> ReadPrompt:
        """Reads a prompt with weights, of any length, that may name embeddings. `what`: how warnings call it. Any thread.

        Of `embeddings` only those are looked up that the text names. One that cannot be used is a warning if a word happens to be
        its name; asked for as `embedding:name`, it is EmbeddingUnusable, which is raised.
        """
        return self._reader.weighted(text, embeddings, what)

    def prepare_plain(self, text: str, what: str = "prompt") -> ReadPrompt:
        """Reads a prompt in which every character stands for itself, as diffusers does: one chunk, and the rest cut off. Any thread."""
        return self._reader.plain(text, what)

    def padded(self, prompts: Sequence[ReadPrompt]) -> list[ReadPrompt]:
        """The prompts with chunks of no text behind them, so that all are as long as the longest."""
        most = max((len(prompt.chunks[0]) for prompt in prompts), default=0)
        return [self._reader.padded(prompt, most) for prompt in prompts]

    @torch.inference_mode()
    def encode(
        self,
        prompts: Sequence[ReadPrompt],
        keys: Sequence[Hashable] | None = None,
        around: Around = _bare,
        rows: int = 0,
    ) -> list[EncodedPrompt]:
        """Encodes prompts, on the thread that has the device.

        `keys`: what prompts have to have in common to share the rows of equal chunks. `rows`: every call has exactly so many, the last
        one filled up, so that the kernels that run do not depend on what is encoded; 0: as many as there are, up to 64.
        """
        keys = [None] * len(prompts) if keys is None else keys
        found = [self._encode(encoder, prompts, keys, around, rows) for encoder in range(len(self._encoders))]
        return [self._joined(prompt, key, found) for prompt, key in zip(prompts, keys, strict=True)]

    def _encode(
        self, encoder: int, prompts: Sequence[ReadPrompt], keys: Sequence[Hashable], around: Around, rows: int
    ) -> dict[_Key, _Row]:
        """The states of each different chunk, (tokens, width), without weights, and what is pooled of it, (width,)."""
        owners: dict[_Key, int] = {}
        for index, (prompt, key) in enumerate(zip(prompts, keys, strict=True)):
            for chunk in prompt.chunks[encoder]:
                owners.setdefault((key, chunk), index)
        different = list(owners)
        found: dict[_Key, _Row] = {}
        for start in range(0, len(different), rows or _MOST_ROWS):
            batch = different[start : start + (rows or _MOST_ROWS)]
            filling = max(0, rows - len(batch))
            chunks = [chunk for _, chunk in batch] + [self._reader.empty(encoder)] * filling
            with around([encoder], [owners[key] for key in batch] + [-1] * filling):
                states, pooled = self._encoders[encoder].run(chunks)
            found.update((key, (states[row], None if pooled is None else pooled[row])) for row, key in enumerate(batch))
        return found

    def _joined(self, prompt: ReadPrompt, key: Hashable, found: Sequence[Mapping[_Key, _Row]]) -> EncodedPrompt:
        states = [
            torch.cat([weighed(rows[key, chunk][0], chunk.weights) for chunk in chunks])
            for chunks, rows in zip(prompt.chunks, found, strict=True)
        ]
        _, pooled = found[-1][key, prompt.chunks[-1][0]]
        joined = torch.cat(states, dim=-1).to(self._encoders[-1].dtype)
        return EncodedPrompt(joined, None if pooled is None else pooled.clone())
