"""Prompts to texts: what of them is encoded together, with which adapters of the text encoders."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

from collodion.worker.adapters.adapters import Adapters
from collodion.worker.adapters.selection import Selection
from collodion.worker.families.architecture import Architecture, Prompt, Texts
from collodion.worker.families.text_cache import TextCache
from collodion.worker.memory_errors import memory_errors
from collodion.worker.optimize.modules import ReadyModule


class PromptEncoder:
    """Of one model; device thread.

    modules: text encoders that are captured, by name. rows: prompts in a call, filled up, of a reproducible worker; 0: as many as there
    are. cache: of texts that were encoded before.
    """

    def __init__(
        self,
        architecture: Architecture,
        adapters: Adapters,
        modules: Mapping[str, ReadyModule],
        rows: int,
        cache: TextCache,
    ) -> None:
        self.cache = cache
        self._modules = modules
        self._architecture = architecture
        self._adapters = adapters
        self._rows = rows

    def encode(self, prompts: Sequence[Prompt]) -> dict[Prompt, Texts]:
        """The texts of different prompts, which others may have too. Raises MemoryError."""
        try:
            with memory_errors():
                return self.cache.texts_of(prompts, self._encode)
        except MemoryError:
            self.cache.clear()
            raise

    def _encode(self, prompts: Sequence[Prompt]) -> list[Texts]:
        groups: dict[Hashable, list[Prompt]] = {}
        for prompt in prompts:  # reproducible: those with the same adapters by themselves, as for the steps
            groups.setdefault(prompt.key if self._rows else None, []).append(prompt)
        texts: dict[Prompt, Texts] = {}
        for group in groups.values():
            encoded = self._architecture.encode_prompts(group, partial(self._around, group), self._rows)
            texts.update(zip(group, encoded, strict=True))
        return [texts[prompt] for prompt in prompts]

    def _around(
        self, prompts: Sequence[Prompt], encoders: Sequence[int], rows: Sequence[int]
    ) -> AbstractContextManager[object]:
        """See Around. Rows of no prompt have some adapters too, so that what is computed does not depend on how many there are."""
        uses = [prompts[max(row, 0)].uses for row in rows]
        components = [self._architecture.text_encoders[encoder] for encoder in encoders]
        selections = [self._adapters.select(component, uses, len(rows)) for component in components]
        bank = self._adapters.bank
        for selection in selections:
            bank.refresh(selection)  # room for one may have been made by moving another's
        if any(selection.epoch != bank.epoch for selection in selections):
            raise MemoryError("the adapters of the text encoders do not fit side by side")
        return self._applied(selections, any(_inserts(prompts[row], encoders) for row in rows if row >= 0))

    @contextmanager
    def _applied(self, selections: Sequence[Selection], inserted: bool) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self._adapters.applied(*selections))
            for selection in selections:
                module = self._modules.get(selection.component)
                reason = "text_adapters" if selection.changes else "embeddings" if inserted else ""
                if module is not None and reason:
                    stack.enter_context(module.changed(reason))
            yield


def _inserts(prompt: Prompt, encoders: Sequence[int]) -> bool:
    """Whether vectors of an embedding are put among its tokens (`TextEncoder`): what was captured would go on without them."""
    read = prompt.chunks
    return read is not None and any(chunk.inserts for encoder in encoders for chunk in read.chunks[encoder])
