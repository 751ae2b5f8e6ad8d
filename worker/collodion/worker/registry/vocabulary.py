"""CLIP's tokenizer, made from the merges that we ship (`configs/clip_merges.txt`, OpenAI's, MIT): single files come without one.

The vocabulary follows from the merges, as in OpenAI's `simple_tokenizer.py`: the 256 bytes, the same at the end of a word, a word
for each merge, and the two marks of beginning and end.
"""

from functools import cache
from importlib.resources import files
from typing import Any

_END = "</w>"
_MARKS = ("<|startoftext|>", "<|endoftext|>")
_PRINTABLE = (range(ord("!"), ord("~") + 1), range(ord("¡"), ord("¬") + 1), range(ord("®"), ord("ÿ") + 1))


def clip_tokenizer(*, pad_token: str, model_max_length: int) -> Any:
    """A transformers CLIPTokenizer. pad_token: `<|endoftext|>` for CLIP itself, `!` for OpenCLIP's encoders."""
    from transformers import CLIPTokenizer

    merges = _merges()
    return CLIPTokenizer(
        vocab=_vocabulary(merges),
        merges=list(merges),
        pad_token=pad_token,
        model_max_length=model_max_length,
    )


@cache
def _merges() -> tuple[tuple[str, str], ...]:
    text = (files(__package__) / "configs" / "clip_merges.txt").read_text(encoding="utf-8")
    pairs = (line.split(" ") for line in text.split("\n") if line)
    return tuple((first, second) for first, second in pairs)


def _vocabulary(merges: tuple[tuple[str, str], ...]) -> dict[str, int]:
    single = _bytes()
    words = [*single, *(letter + _END for letter in single), *(first + second for first, second in merges), *_MARKS]
    return {word: number for number, word in enumerate(words)}


def _bytes() -> list[str]:
    """A printable character for each byte: those that are printable first."""
    printable = [code for codes in _PRINTABLE for code in codes]
    hidden = len([code for code in range(256) if code not in printable])
    return [chr(code) for code in printable] + [chr(256 + number) for number in range(hidden)]
