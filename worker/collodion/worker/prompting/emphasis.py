r"""Brackets, weights and BREAK, with the meanings that AUTOMATIC1111's web interface gave them.

    prompt = { item }
    item   = text | "(" { item } [ ":" number ] ")" | "[" { item } "]" | "BREAK" | "\" character

1. `(…)` is 1.1 times the weight, `(…:1.3)` 1.3 times, `[…]` a part in 1.1 of it; nested ones multiply. Weights stay within ±10.
2. BREAK, in capitals, begins a new window of the text encoder; weights go on over it.
3. `\(`, `\)`, `\[`, `\]` and `\\` stand for the characters themselves. Any other backslash is left out.
4. A bracket is closed by the next one of its kind that closes no other, and holds to the end if there is none. One that closes
   nothing is text, and so is one that would be the 65th to be open.
5. What that interface has beyond this is said in a remark, and read as ordinary text: prompt editing `[a:b:0.5]` and alternation
   `[a|b]`, which would need other texts at other steps, and AND, which would need more rows of the model call.

Reference for the meanings: https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis, and "Infinite
prompt length" and "BREAK keyword" there.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

MAX_WEIGHT = 10.0
_STRONGER = 1.1
_WEAKER = 1 / 1.1
_DEEPEST = 64
_LONGEST_QUOTE = 60  # characters of a prompt that a remark repeats
_MOST_REMARKS = 8
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
_TOKEN = re.compile(
    rf"""
    \\ (?P<escaped> [\\()\[\]]? )
    | : \s* (?P<weight> {_NUMBER.pattern} ) \s* \)
    | (?P<break> \bBREAK\b )
    | [()\[\]:|]
    | (?: (?!\bBREAK\b) [^\\()\[\]:|] )+
    """,
    re.VERBOSE,
)
_COMPOSITION = re.compile(r"\bAND\b")


class Fragment(NamedTuple):
    """Text of one weight."""

    text: str
    weight: float


class Parsed(NamedTuple):
    """Sections (BREAK stands between them) of fragments, neighbours of different weights; and what was not read as it was meant."""

    sections: tuple[tuple[Fragment, ...], ...]
    remarks: tuple[str, ...]


class _Open:
    """A bracket that waits for its partner: its place among the tokens, and whether a bar stood in it."""

    def __init__(self, place: int, kind: str) -> None:
        self.place = place
        self.kind = kind
        self.bar = False


def parse(prompt: str) -> Parsed:
    """Reads a prompt; every string is one. Takes time in proportion to its length."""
    tokens = list(_TOKEN.finditer(prompt))
    brackets = _Brackets(prompt, tokens)
    sections: list[list[Fragment]] = [[]]
    holding: dict[int, float] = {}
    for place, token in enumerate(tokens):
        if place in brackets.factors:
            holding[place] = brackets.factors[place]
        elif place in brackets.ends:
            del holding[brackets.ends[place]]
        elif token["break"]:
            sections.append([])
        else:
            text = token.group() if token["escaped"] is None else token["escaped"]
            _append(sections[-1], Fragment(text, brackets.bounded(math.prod(holding.values(), start=1.0))))
    return Parsed(tuple(map(tuple, sections)), brackets.remarks())


class _Brackets:
    """Which brackets belong together. `factors`: what those that open multiply by; `ends`: of those that close, which one. By token."""

    def __init__(self, prompt: str, tokens: Sequence[re.Match[str]]) -> None:
        self._prompt = prompt
        self._tokens = tokens
        self._open: list[_Open] = []
        self._remarks: dict[str, None] = {}
        self.factors: dict[int, float] = {}
        self.ends: dict[int, int] = {}
        for place, token in enumerate(tokens):
            self._read(place, token)
        for bracket in self._open:
            self._remark(bracket.place, len(prompt), "is never closed, so it holds to the end")
        if found := _COMPOSITION.search(prompt):
            self._remarks[f"{found.group()} does not compose prompts here: it is read as a word"] = None

    def remarks(self) -> tuple[str, ...]:
        """Each once, the first few."""
        return tuple(self._remarks)[:_MOST_REMARKS]

    def bounded(self, weight: float) -> float:
        """The weight, or the bound that it is beyond."""
        if abs(weight) > MAX_WEIGHT:
            self._remarks[f"weights go from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}: what is beyond is read so"] = None
        return max(-MAX_WEIGHT, min(MAX_WEIGHT, weight))

    def _read(self, place: int, token: re.Match[str]) -> None:
        text = token.group()
        if text in ("(", "[") and len(self._open) < _DEEPEST:
            self._open.append(_Open(place, text))
            self.factors[place] = _STRONGER if text == "(" else _WEAKER
        elif text == "|" and self._open:
            self._open[-1].bar = True
        elif text == ")":
            self._close(place, "(")
        elif text == "]":
            self._close(place, "[")
        elif token["weight"]:
            self._close(place, "(", float(token["weight"]))

    def _close(self, place: int, kind: str, factor: float | None = None) -> None:
        opened = next((bracket for bracket in reversed(self._open) if bracket.kind == kind), None)
        if opened is None:
            return  # text, like the bracket of a smile
        self._open.remove(opened)
        self.ends[place] = opened.place
        if factor is not None:
            self.factors[opened.place] = self.bounded(factor)
        if kind == "[":
            self._remark_schedules(opened, place)

    def _remark_schedules(self, opened: _Open, place: int) -> None:
        begin, end = self._tokens[opened.place].end(), self._tokens[place].start()
        _, colon, last = self._prompt[begin:end].rpartition(":")
        if colon and _NUMBER.fullmatch(last.strip()):
            self._remark(opened.place, end + 1, "is prompt editing, which is not supported: it is read as text")
        elif opened.bar:
            self._remark(opened.place, end + 1, "alternates prompts, which is not supported: it is read as text")

    def _remark(self, place: int, end: int, what: str) -> None:
        quoted = self._prompt[self._tokens[place].start() : end]
        if len(quoted) > _LONGEST_QUOTE:
            quoted = quoted[:_LONGEST_QUOTE] + "…"
        self._remarks[f"{quoted!r} {what}"] = None


def _append(fragments: list[Fragment], more: Fragment) -> None:
    """Neighbours of one weight are one text, as its words may run over their border."""
    if fragments and math.isclose(fragments[-1].weight, more.weight, abs_tol=1e-9):
        last = fragments.pop()
        more = Fragment(last.text + more.text, last.weight)
    if more.text:
        fragments.append(more)
