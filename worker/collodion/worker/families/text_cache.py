"""Texts of prompts that were encoded before, the latest used, within a budget of device memory.

1. What determines texts is all in `_key`, by value: the text as it was read, its weights, the embeddings that it names, and the adapters
   that the text encoders had with their strength. A file that changes is another key. The key keeps no adapter in memory.
2. Texts are shared: the cache and any number of jobs have the very same tensors. Nobody writes into them; who moves them to another
   device puts others in their place (`Conditioning.move`), and the cache's stay where they are.
3. Where batches are padded to one size, rows of an encoding depend on nothing beside them, so that what was cached is bit for bit what
   would be encoded anew.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch

from collodion.worker.families.architecture import Prompt, Texts
from collodion.worker.prompting.chunks import Chunk

Encode = Callable[[Sequence[Prompt]], Sequence[Texts]]
"""Encodes prompts, all different; their texts in the same order."""

_KEY_BYTES = 2048  # of host memory beside a text's own: what is counted for an entry whose tensors are small


class TextCache:
    """Device thread only. budget_bytes: of all tensors in it; 0 keeps nothing. read: see Observer."""

    def __init__(self, budget_bytes: int, read: Callable[[int, int], None]) -> None:
        self._budget_bytes = budget_bytes
        self._read = read
        self._entries: OrderedDict[Hashable, Texts] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        """How many prompts it has the texts of."""
        return len(self._entries)

    def texts_of(self, prompts: Sequence[Prompt], encode: Encode) -> dict[Prompt, Texts]:
        """The texts of different prompts; those that it lacks are encoded, all in one call of `encode`, and kept. Nothing changes if that
        raises."""
        known = {prompt: texts for prompt in prompts if (texts := self._entries.get(_key(prompt))) is not None}
        missing = [prompt for prompt in prompts if prompt not in known]
        made = dict(zip(missing, map(_owned, encode(missing)), strict=True)) if missing else {}
        self._read(len(missing), len(known))
        for prompt in known:
            self._entries.move_to_end(_key(prompt))
        for prompt, texts in made.items():
            self._keep(_key(prompt), texts)
        return {prompt: known[prompt] if prompt in known else made[prompt] for prompt in prompts}

    def knows(self, prompt: Prompt) -> bool:
        """Whether it has its texts."""
        return _key(prompt) in self._entries

    def clear(self) -> None:
        """Lets go of everything: memory is short, or the model leaves."""
        self._entries.clear()
        self.nbytes = 0

    def _keep(self, key: Hashable, texts: Texts) -> None:
        size = _size(texts)
        if size > self._budget_bytes:
            return
        self._entries[key] = texts
        self.nbytes += size
        while self.nbytes > self._budget_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.nbytes -= _size(oldest)


def _key(prompt: Prompt) -> Hashable:
    read = () if prompt.chunks is None else tuple(tuple(map(_read, chunks)) for chunks in prompt.chunks.chunks)
    return prompt.text, prompt.negative, read, prompt.key


def _read(chunk: Chunk) -> Hashable:
    """A chunk without the vectors that it holds, but with its weights, which are no part of what makes chunks equal."""
    inserts = tuple((insert.place, insert.digest) for insert in chunk.inserts)
    return chunk.ids, chunk.read, inserts, chunk.weights


def _size(texts: Texts) -> int:
    return _KEY_BYTES + sum(tensor.nbytes for tensor in texts.values())


def _owned(texts: Texts) -> Texts:
    """Without views: one would keep the batch that it was encoded in, until the last of its prompts is gone."""
    return {name: _whole(tensor) for name, tensor in texts.items()}


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
