"""Where a text names an embedding: its bare name as a whole word, or `embedding:name`.

1. Capitals do not matter, and the longest name that fits wins.
2. `embedding:name` never means a part of the word that stands there: if no embedding has that name, it is a mention of none.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

_PIECE = re.compile(r"\w+|[^\w\s]")
_MARK = "embedding:"
_WORD = re.compile(r"[\w.-]*\w")
_SUFFIXES = (".safetensors", ".pt", ".bin")  # some write the file's name


class Mention(NamedTuple):
    """An embedding in a text. `explicit`: as `embedding:name`. `known`: there is one of that name, which is spelled as it is."""

    name: str
    explicit: bool
    known: bool
    text: str


class Names:
    """The names that a text may mention."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_first_piece: dict[str, list[str]] = {}
        for name in sorted(names, key=len, reverse=True):
            if first := _PIECE.match(name):
                self._by_first_piece.setdefault(first.group().casefold(), []).append(name)

    def split(self, text: str) -> list[str | Mention]:
        """The text in order, as strings and mentions; strings are not empty."""
        found: list[str | Mention] = []
        done = 0
        for piece in _PIECE.finditer(text):
            start = piece.start()
            if start < done:
                continue
            mention = self._explicit(text, start) or self._bare(text, start)
            if mention is not None:
                found += [text[done:start], mention]
                done = start + len(mention.text)
        return [part for part in [*found, text[done:]] if part != ""]

    def _bare(self, text: str, start: int) -> Mention | None:
        first = _PIECE.match(text, start)
        assert first is not None
        for name in self._by_first_piece.get(first.group().casefold(), ()):
            end = start + len(name)
            if text[start:end].casefold() == name.casefold() and not _within_word(text, end):
                return Mention(name, False, True, text[start:end])
        return None

    def _explicit(self, text: str, start: int) -> Mention | None:
        begin = start + len(_MARK)
        if text[start:begin].casefold() != _MARK or begin == len(text) or not _PIECE.match(text, begin):
            return None
        bare = self._bare(text, begin)
        word = _WORD.match(text, begin)
        end = word.end() if word else begin
        if bare is not None and begin + len(bare.text) >= end:
            return Mention(bare.name, True, True, text[start : begin + len(bare.text)])
        if word is None:
            return None
        name = word.group()
        stem = next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)
        known = self._bare(stem, 0) if _PIECE.match(stem) else None
        if known is not None and len(known.text) == len(stem):
            return Mention(known.name, True, True, text[start:end])
        return Mention(name, True, False, text[start:end])


def _within_word(text: str, place: int) -> bool:
    """Whether a word goes on over this place."""
    return place < len(text) and bool(re.match(r"\w\w", text[place - 1 : place + 1]))
