"""What of a prompt does not fit into a model's text window."""

import copy
import threading
from typing import Any

from collodion.worker.prompting.reading import Remark, truncated


class TextWindow:
    """Counts tokens, beside the text encoder: a tokenizer serves one thread at a time, so this one is a copy."""

    def __init__(self, tokenizer: Any, tokens: int) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._lock = threading.Lock()
        self.tokens = tokens

    def cut(self, what: str, text: str) -> tuple[Remark, ...]:
        """The warning on what the model will not read of `text`; none if it reads everything."""
        with self._lock:
            tokens = self._tokenizer(text, add_special_tokens=False).input_ids
            if len(tokens) <= self.tokens:
                return ()
            rest = self._tokenizer.decode(tokens[self.tokens :])
        return (truncated(what, len(tokens), self.tokens, rest),)
