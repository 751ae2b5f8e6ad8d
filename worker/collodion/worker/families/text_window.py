"""What of a prompt does not fit into a model's text window."""

import copy
import threading
from typing import Any

_LONGEST_QUOTE = 200  # characters of what is cut off that a client is shown


class TextWindow:
    """Counts tokens, beside the text encoder: a tokenizer serves one thread at a time, so this one is a copy."""

    def __init__(self, tokenizer: Any, tokens: int) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._lock = threading.Lock()
        self.tokens = tokens

    def cut(self, what: str, text: str) -> str | None:
        """A sentence on what the model will not read of `text`; None if it reads everything."""
        with self._lock:
            tokens = self._tokenizer(text, add_special_tokens=False).input_ids
            if len(tokens) <= self.tokens:
                return None
            rest = self._tokenizer.decode(tokens[self.tokens :])
        quoted = rest if len(rest) <= _LONGEST_QUOTE else rest[:_LONGEST_QUOTE] + "…"
        return f"the {what} has {len(tokens)} tokens, of which {self.tokens} are read; not read: {quoted!r}"
