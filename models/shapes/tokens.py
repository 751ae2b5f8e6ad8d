"""The tokenizer: byte-level pair encoding, its merges learned from our own captions.

Rules of this file: every byte has a token, within a word and at its end, so that any Unicode text encodes without an unknown token;
every word of the captions becomes one token.
"""

import json

import numpy as np
from tokenizers import pre_tokenizers, trainers
from transformers import CLIPTokenizer

from models.shapes.captions import caption
from models.shapes.draw import sample
from models.shapes.parts import PROMPT_TOKENS

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"


def _merges(captions: int) -> list[tuple[str, str]]:
    """Pairs to join, most frequent first, until every word of the captions is whole."""
    rng = np.random.default_rng(0)
    lines = [caption(sample(rng, held_out=False), rng) for _ in range(captions)]
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix=END_OF_WORD,
    )
    learner = CLIPTokenizer().backend_tokenizer
    learner.train_from_iterator(lines, trainer)
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]


def new_tokenizer(captions: int = 20_000) -> CLIPTokenizer:
    """A CLIP tokenizer of PROMPT_TOKENS tokens; the same one each time."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges(captions)
    words = [
        *alphabet,
        *(byte + END_OF_WORD for byte in alphabet),
        *(left + right for left, right in merges),
        START,
        END,
    ]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=PROMPT_TOKENS)
