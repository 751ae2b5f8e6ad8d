"""Text that others wrote, made harmless for a terminal.

A prompt, or a server's message, may hold what a terminal obeys instead of showing it: escape sequences, which begin with
a control character, and the characters that turn the direction of writing. Neither is wanted in a line of ours.
"""

_SPACES = "\t\n\v\f\r\x85\u2028\u2029"
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_HARMLESS = dict.fromkeys(_CONTROLS, "\ufffd") | dict.fromkeys(map(ord, _SPACES), " ")


def shown(text: str) -> str:
    """`text` on one line, with nothing in it that a terminal would obey."""
    return text.translate(_HARMLESS)
