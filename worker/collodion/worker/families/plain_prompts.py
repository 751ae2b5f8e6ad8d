"""What architectures have in common that read a prompt as it is, by diffusers' own `encode_prompt`."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from collodion.wire.jobs import PromptSyntax
from collodion.worker.adapters.loaded import Use
from collodion.worker.families.architecture import WHATS, Architecture, Prompt, Texts
from collodion.worker.families.text_window import TextWindow
from collodion.worker.prompting.embeddings import Embedding
from collodion.worker.prompting.prompter import Around


class PlainPrompts(Architecture):
    """They read it on any thread only to say what of it is cut off."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        self._window = self.text_window()

    def text_window(self) -> TextWindow:
        """What counts how many tokens of a prompt are read."""
        return TextWindow(self.pipeline.tokenizer, self.pipeline.tokenizer.model_max_length - 2)

    def read(
        self,
        prompts: Sequence[str],
        syntax: PromptSyntax,
        embeddings: Mapping[str, Embedding],
        uses: tuple[Use, ...],
    ) -> list[Prompt]:
        """See Architecture."""
        assert syntax is PromptSyntax.PLAIN, "who reads weights says so"
        assert not embeddings
        return [
            Prompt(text, negative, uses=uses, warnings=self._window.cut(what, text))
            for text, (what, negative) in zip(prompts, WHATS, strict=False)
        ]


class BatchedPrompts(PlainPrompts):
    """Of these, those that encode several prompts in one call of each text encoder."""

    def encode_prompts(self, prompts: Sequence[Prompt], around: Around, rows: int) -> list[Texts]:
        """See Architecture."""
        padded = [*prompts, *[Prompt("", False)] * (rows - len(prompts))]
        owners = [*range(len(prompts)), *[-1] * (rows - len(prompts))]
        with around(range(len(self.text_encoders)), owners):
            encoded = self.encode([prompt.text for prompt in padded], [prompt.negative for prompt in padded])
        return encoded[: len(prompts)]

    @abstractmethod
    def encode(self, prompts: Sequence[str], negative: Sequence[bool]) -> list[Texts]:
        """The texts of these prompts; `negative` says which of them are negative ones. Every encoder is called once, a row a prompt."""
