"""The reference is diffusers' own `encode_prompt`, and formulas written down again."""

from typing import Any

import pytest
import torch

from collodion.worker.prompting.prompter import Prompter
from collodion.worker.prompting.text import weighed

LONG = ", ".join(f"{color} {shape}" for color in ("red", "blue", "green") for shape in ("circle", "square") * 8)


@pytest.mark.parametrize("text", ["", "a red circle", "a red circle, on Grüße 😀! <|endoftext|> x", "red " * 75])
def test_without_markup_it_is_what_diffusers_encodes(model: Any, text: str) -> None:
    model.check_same(model.encode(text), model.reference(text))


@pytest.mark.parametrize("text", ["", "a (red:1.3) [circle] BREAK \\(x\\)", LONG])
def test_plain_is_what_diffusers_encodes_whatever_it_says(model: Any, text: str) -> None:
    (encoded,) = model.prompter.encode([model.prompter.prepare_plain(text)])
    model.check_same(encoded, model.reference(text))


def test_plain_tells_what_is_cut_off(model: Any) -> None:
    assert model.prompter.prepare_plain("red " * 75).warnings == ()
    ((reason, message),) = model.prompter.prepare_plain("red " * 75 + "circle", "negative prompt").warnings
    assert reason == "PROMPT_TRUNCATED"
    assert message.startswith("the negative prompt has 76 tokens, of which 75 are read; not read: 'circle'")


def test_weights_of_one_change_nothing(model: Any) -> None:
    model.check_same(model.encode("(a (red:1.0):1) circle"), model.reference("a red circle"))


def test_weights_multiply_states_and_keep_their_mean(model: Any) -> None:
    states, pooled = model.encode("a (red:1.4) [circle]")
    plain, plain_pooled = model.reference("a red circle")
    expected = []
    # Each encoder has the mean of its own states.
    for part in plain.split([32, 48] if plain.shape[1] == 80 else [32], dim=1):
        weighted = part.clone()
        weighted[2] *= 1.4
        weighted[3] /= 1.1
        expected.append(weighted * (part.mean() / weighted.mean()))
    torch.testing.assert_close(states, torch.cat(expected, 1), rtol=1e-6, atol=1e-6)
    assert plain_pooled is None or torch.equal(pooled, plain_pooled)
    assert (states - plain).abs().max() > 0.01


def test_a_mean_of_zero_is_no_end_of_the_world() -> None:
    states = torch.tensor([[1.0, -1.0], [2.0, 3.0]])
    assert torch.equal(weighed(states, [1.0, 0.0]), torch.tensor([[1.0, -1.0], [0.0, 0.0]]))


def test_a_long_prompt_is_its_chunks_one_behind_the_other(model: Any) -> None:
    read = model.prompter.prepare(LONG)
    assert (read.tokens, read.warnings) == (2 * 77, ())
    ((states, pooled),) = model.prompter.encode([read])
    things = LONG.split(", ")  # of two words and a comma, so that 25 fill a chunk
    chunks = [", ".join(things[:25]) + ",", ", ".join(things[25:])]
    alone = [model.reference(chunk) for chunk in chunks]
    torch.testing.assert_close(states, torch.cat([chunk for chunk, _ in alone]), rtol=1e-6, atol=2e-6)
    assert pooled is None or torch.allclose(pooled, alone[0][1], atol=2e-6)


def test_break_is_where_the_next_chunk_begins(model: Any) -> None:
    states, _ = model.encode("a red BREAK circle")
    alone = [model.reference(text)[0] for text in ("a red", "circle")]
    torch.testing.assert_close(states, torch.cat(alone), rtol=1e-6, atol=2e-6)


def test_each_chunk_has_a_mean_of_its_own(model: Any) -> None:
    states, _ = model.encode("a (red:1.4) BREAK circle")
    torch.testing.assert_close(states[:77], model.encode("a (red:1.4)")[0], rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(states[77:], model.reference("circle")[0], rtol=1e-6, atol=2e-6)


def test_the_shorter_of_two_prompts_is_filled_with_chunks_of_no_text(model: Any) -> None:
    short, long = model.prompter.padded([model.prompter.prepare(text) for text in ("red", "a BREAK b BREAK c")])
    assert short.tokens == long.tokens == 3 * 77
    (states, pooled), _ = model.prompter.encode([short, long])
    expected = [model.reference(text) for text in ("red", "", "")]
    torch.testing.assert_close(states, torch.cat([each for each, _ in expected]), rtol=1e-6, atol=2e-6)
    assert pooled is None or torch.allclose(pooled, expected[0][1], atol=2e-6)


def test_what_goes_beyond_the_last_chunk_is_told(sd: Any) -> None:
    pipeline = sd.pipeline
    prompter = Prompter([pipeline.tokenizer], [pipeline.text_encoder], penultimate=False, most_chunks=2)
    assert prompter.prepare("red " * 150).warnings == ()
    read = prompter.prepare("red " * 150 + "(circle:1.2) " * 200, what="negative prompt")
    assert read.tokens == 2 * 77
    ((reason, message),) = read.warnings
    assert reason == "PROMPT_TRUNCATED"
    assert message.startswith("the negative prompt has 350 tokens, of which 150 are read; not read: 'circle circle ")
    assert len(message) < 300


def test_what_is_not_read_as_it_was_meant_is_told(sd: Any) -> None:
    ((reason, message),) = sd.prompter.prepare("a [cat:dog:0.5]", what="negative prompt").warnings
    assert reason == "PROMPT_SYNTAX"
    assert (
        message == "the negative prompt: '[cat:dog:0.5]' is prompt editing, which is not supported: it is read as text"
    )
