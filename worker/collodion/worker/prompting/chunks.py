"""Tokens and vectors, cut into chunks: what a text encoder reads at a time.

1. A chunk is the encoder's whole window: its begin token, up to 75 of the text's, its end token, then padding. (75 is the window of CLIP;
   smaller ones are cut in proportion.)
2. A section begins a new chunk, even if it is empty, but for a last one without tokens.
3. A text that goes on beyond a chunk is cut after its last comma, if that is among the last 20 tokens and no comma follows; else
   where the chunk is full. Vectors of an embedding stay together.

Rules 2 and 3 are as in AUTOMATIC1111's web interface ("Infinite prompt length", "BREAK keyword"; 20 is its default).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from collodion.worker.prompting.embeddings import Embedding

_REACH, _OF = 20, 75  # so many tokens of so many, at the end of a chunk, where a comma may cut it


class Unit(NamedTuple):
    """A token, or the vectors of an embedding in the place of some."""

    token: int
    weight: float
    embedding: Embedding | None = None

    @property
    def length(self) -> int:
        """Tokens of the window that it takes."""
        return 1 if self.embedding is None else len(self.embedding)


@dataclass(frozen=True)
class Insert:
    """Vectors (n, width) that are read in the place of the tokens from `place` on. `digest` says what they are."""

    place: int
    digest: str
    vectors: torch.Tensor = field(compare=False)


@dataclass(frozen=True)
class Chunk:
    """What an encoder reads at a time: as many ids as its window has tokens, the first `read` of which are no padding.

    Equal chunks are encoded alike; `weights` come in after that, one for each id, and are empty if all are 1.
    """

    ids: tuple[int, ...]
    read: int
    inserts: tuple[Insert, ...] = ()
    weights: tuple[float, ...] = field(default=(), compare=False)


class Window:
    """What a chunk of one text encoder looks like. `encoder`: number of the vectors of an embedding that are for it."""

    def __init__(self, tokenizer: Any, length: int, encoder: int) -> None:
        self.length = length
        self.room = length - 2
        self._encoder = encoder
        self._begin, self._end, self._pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        # Stands where vectors are put; the end token would be taken for the end.
        self.stand_in = next(token for token in (0, 1, 2) if token not in (self._begin, self._end))
        comma = tokenizer(",", add_special_tokens=False).input_ids
        self._comma = comma[0] if len(comma) == 1 else None
        self.empty = self._chunk([])

    def cut(self, sections: Iterable[Sequence[Unit]]) -> list[list[Unit]]:
        """Units in so many as fit into a chunk; at least one list."""
        chunks: list[list[Unit]] = []
        for section in sections:
            chunks.append([])
            for unit in section:
                self._add(unit, chunks)
        if len(chunks) > 1 and not chunks[-1]:
            chunks.pop()
        return chunks

    def chunks(self, cut: Iterable[Sequence[Unit]]) -> tuple[Chunk, ...]:
        """Chunks of what `cut` returned."""
        return tuple(map(self._chunk, cut))

    def _add(self, unit: Unit, chunks: list[list[Unit]]) -> None:
        used = sum(each.length for each in chunks[-1])
        if used + unit.length > self.room:
            chunks.append(self._carried_over(unit, chunks[-1]))
        chunks[-1].append(unit)

    def _carried_over(self, unit: Unit, full: list[Unit]) -> list[Unit]:
        """Takes what stands behind the last comma out of a full chunk."""
        if unit.embedding is not None or unit.token == self._comma:
            return []
        behind = 0
        for number, each in enumerate(reversed(full)):
            if each.embedding is None and each.token == self._comma and behind * _OF < self.room * _REACH:
                rest = full[len(full) - number :]
                del full[len(full) - number :]
                return rest
            behind += each.length
        return []

    def _chunk(self, units: Sequence[Unit]) -> Chunk:
        ids, weights, inserts = [self._begin], [1.0], []
        for unit in units:
            if unit.embedding is None:
                ids.append(unit.token)
            else:
                inserts.append(Insert(len(ids), unit.embedding.digest, unit.embedding.vectors[self._encoder]))
                ids += [self.stand_in] * unit.length
            weights += [unit.weight] * unit.length
        read = len(ids) + 1
        ids += [self._end] + [self._pad] * (self.length - read)
        weights += [1.0] * (self.length - len(weights))
        weighted = any(weight != 1.0 for weight in weights)
        return Chunk(tuple(ids), read, tuple(inserts), tuple(weights) if weighted else ())
