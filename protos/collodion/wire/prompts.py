"""The adapters that a prompt names: `<lora:name>`, `<lora:name:0.8>`, as other interfaces for Stable Diffusion read them.

1. A tag is taken out of the prompt, and nothing is put in its place: the text encoder never sees it.
2. `<lyco:…>` is another word for the same thing. `<hypernet:…>` names something that is not served.
3. One scale is for the whole adapter. Interfaces disagree on which of two numbers is the text encoder's, and a request has room for
   one: two equal numbers are that number, two different ones are a violation, and so are named ones (`te=0.5`, `lbw=…`).
4. What looks like a tag and cannot be read is a violation, never silently text.
"""

import math
import re
from typing import NamedTuple

_TAG = re.compile(r"<\s*(lora|lyco|hypernet)\s*:([^<>]*)(>?)", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_LONGEST_QUOTE = 80  # characters of a tag that a violation repeats


class NamedLora(NamedTuple):
    """An adapter that a prompt names. `scale` is finite; its bounds are the caller's, who knows where else scales come from."""

    name: str
    scale: float


class Extracted(NamedTuple):
    """A prompt without its tags, what they name in the order of the text, and a sentence for each tag that cannot be read.

    A name may come twice: whoever knows the request's other adapters refuses that.
    """

    prompt: str
    loras: tuple[NamedLora, ...]
    violations: tuple[str, ...]


class _Unreadable(Exception):
    pass


def extract_loras(prompt: str) -> Extracted:
    """Takes the tags out of a prompt, those that cannot be read as well. Takes time in proportion to its length."""
    loras: list[NamedLora] = []
    violations: list[str] = []
    for tag in _TAG.finditer(prompt):
        try:
            loras.append(_read(tag))
        except _Unreadable as why:
            violations.append(f"{_quoted(tag.group())} {why}")
    return Extracted(_TAG.sub("", prompt), tuple(loras), tuple(violations))


def _read(tag: re.Match[str]) -> NamedLora:
    kind, inside, end = tag.groups()
    if not end:
        raise _Unreadable("is not closed by >")
    if kind.lower() == "hypernet":
        raise _Unreadable("is a hypernetwork, which is not served")
    name, *scales = (part.strip() for part in inside.split(":"))
    if not name:
        raise _Unreadable("names no adapter")
    numbers = {_number(scale) for scale in scales}
    if len(numbers) > 1:
        raise _Unreadable("has different scales for the text encoder and the rest; give one for both")
    return NamedLora(name, numbers.pop() if numbers else 1.0)


def _number(text: str) -> float:
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise _Unreadable(f"has the scale {text[:_LONGEST_QUOTE]!r}, which is no number")
    return number


def _quoted(tag: str) -> str:
    return tag if len(tag) <= _LONGEST_QUOTE else tag[:_LONGEST_QUOTE] + "…"
