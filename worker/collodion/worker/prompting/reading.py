"""From a prompt's text to chunks for each text encoder of a model.

A tokenizer serves one thread at a time, and the pipeline's are others', so these are copies behind a lock.
"""

import copy
import threading
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from collodion.worker.prompting.chunks import Chunk, Unit, Window
from collodion.worker.prompting.embeddings import Embedding, EmbeddingUnusable
from collodion.worker.prompting.emphasis import parse
from collodion.worker.prompting.mentions import Mention, Names

NO_EMBEDDINGS: Mapping[str, Embedding] = MappingProxyType({})
_LONGEST_QUOTE = 200  # characters of what is cut off that a client is shown

Remark = tuple[str, str]
"""A warning's reason and message."""


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt as the text encoders will read it: for each of them its chunks, as many as for the others.

    `warnings`: reasons PROMPT_SYNTAX, PROMPT_TRUNCATED, EMBEDDING_NOT_FOUND, EMBEDDING_UNUSABLE, each with a sentence.
    """

    chunks: tuple[tuple[Chunk, ...], ...]
    warnings: tuple[Remark, ...] = ()

    @property
    def tokens(self) -> int:
        """How many tokens its states will have."""
        return sum(len(chunk.ids) for chunk in self.chunks[0])


def truncated(what: str, tokens: int, read: int, rest: str) -> Remark:
    """The warning that of so many tokens only the first are read, and not the `rest`."""
    quoted = rest if len(rest) <= _LONGEST_QUOTE else rest[:_LONGEST_QUOTE] + "…"
    return "PROMPT_TRUNCATED", f"the {what} has {tokens} tokens, of which {read} are read; not read: {quoted!r}"


class _Weighted(NamedTuple):
    what: str | Embedding
    weight: float


class Tokens:
    """What one text encoder reads. `number`: which of the model's encoders it is; `width`: of its token embeddings."""

    def __init__(self, tokenizer: Any, config: Any, number: int) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._lock = threading.Lock()
        # A tokenizer that was saved without its length claims to have no end.
        length = min(tokenizer.model_max_length, config.max_position_embeddings)
        self.window = Window(self._tokenizer, length, number)
        self.width: int = config.hidden_size

    def units(self, sections: Sequence[Sequence[_Weighted]]) -> list[list[Unit]]:
        """The sections as tokens and embeddings."""
        ids = self._ids({part.what for section in sections for part in section if isinstance(part.what, str)})
        return [[unit for part in section for unit in self._units(part, ids)] for section in sections]

    def truncated(self, what: str, kept: Iterable[Sequence[Unit]], rest: Iterable[Sequence[Unit]]) -> Remark:
        """The warning that `rest` is not read."""
        read = sum(unit.length for units in kept for unit in units)
        lost = [unit for units in rest for unit in units]
        with self._lock:
            text = self._tokenizer.decode([unit.token for unit in lost if unit.embedding is None])
        text = text.replace("</w>", " ").strip()  # a copy of a CLIP tokenizer leaves the ends of words in
        return truncated(what, read + sum(unit.length for unit in lost), read, text)

    def _units(self, part: _Weighted, ids: Mapping[str, list[int]]) -> list[Unit]:
        if isinstance(part.what, str):
            return [Unit(token, part.weight) for token in ids[part.what]]
        return [Unit(self.window.stand_in, part.weight, part.what)]

    def _ids(self, texts: Set[str]) -> dict[str, list[int]]:
        if not texts:
            return {}
        with self._lock:
            ids = self._tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids
        return dict(zip(texts, ids, strict=True))


class PromptReader:
    """Reads prompts for a model's text encoders. Any thread. What does not fit into `most_chunks` is cut off with a warning."""

    def __init__(self, encoders: Sequence[Tokens], most_chunks: int) -> None:
        self._encoders = encoders
        self._most_chunks = most_chunks

    def empty(self, encoder: int) -> Chunk:
        """The chunk of no text."""
        return self._encoders[encoder].window.empty

    def weighted(self, text: str, embeddings: Mapping[str, Embedding], what: str) -> ReadPrompt:
        """Reads a prompt with weights, of any length, that may name embeddings. Raises EmbeddingUnusable."""
        parsed = parse(text)
        warnings = [("PROMPT_SYNTAX", f"the {what}: {remark}") for remark in parsed.remarks]
        names = Names(embeddings)
        sections = [
            [
                _Weighted(meant, fragment.weight)
                for fragment in section
                for part in names.split(fragment.text)
                if (meant := self._meant(part, embeddings, what, warnings)) is not None
            ]
            for section in parsed.sections
        ]
        chunks = []
        for encoder in self._encoders:
            cut = encoder.window.cut(encoder.units(sections))
            kept, rest = cut[: self._most_chunks], cut[self._most_chunks :]
            if rest and encoder is self._encoders[0]:
                warnings.append(encoder.truncated(what, kept, rest))
            chunks.append(encoder.window.chunks(kept))
        # Different tokenizers may need different numbers of chunks.
        return self.padded(ReadPrompt(tuple(chunks), tuple(dict.fromkeys(warnings))), max(map(len, chunks)))

    def plain(self, text: str, what: str) -> ReadPrompt:
        """Reads a prompt in which every character stands for itself, as diffusers does: what goes beyond one chunk is cut off."""
        warnings = []
        chunks = []
        for encoder in self._encoders:
            (units,) = encoder.units([[_Weighted(text, 1.0)]])
            kept, rest = units[: encoder.window.room], units[encoder.window.room :]
            if rest and encoder is self._encoders[0]:
                warnings.append(encoder.truncated(what, [kept], [rest]))
            chunks.append(encoder.window.chunks([kept]))
        return ReadPrompt(tuple(chunks), tuple(warnings))

    def padded(self, prompt: ReadPrompt, count: int) -> ReadPrompt:
        """The prompt with chunks of no text behind it, so that it has so many for each encoder."""
        chunks = (
            chunks + (self.empty(encoder),) * (count - len(chunks)) for encoder, chunks in enumerate(prompt.chunks)
        )
        return replace(prompt, chunks=tuple(chunks))

    def _meant(
        self, part: str | Mention, embeddings: Mapping[str, Embedding], what: str, warnings: list[Remark]
    ) -> str | Embedding | None:
        if isinstance(part, str):
            return part
        if not part.known:
            warnings.append(("EMBEDDING_NOT_FOUND", f"the {what} names an embedding {part.name!r}, which is not there"))
            return None
        try:
            embedding = embeddings[part.name]
            misfit = embedding.misfit([encoder.width for encoder in self._encoders], self._encoders[0].window.room)
            if misfit is not None:
                raise EmbeddingUnusable(misfit)
        except EmbeddingUnusable as unusable:
            if part.explicit:
                raise
            warnings.append(("EMBEDDING_UNUSABLE", f"{unusable.reason}; in the {what} it is read as a word"))
            return part.text
        return embedding
