"""How prompts share the calls of the text encoders."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from collodion.worker.prompting.prompter import Prompter

TEXTS = ["a red circle", "a (red:1.2) circle", "a red circle BREAK blue", "blue", "a [blue] BREAK (blue)", ""]


class Calls:
    """Notes the rows of each call."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, list[int]]] = []
        self.open = 0

    @contextlib.contextmanager
    def __call__(self, encoders: Sequence[int], rows: Sequence[int]) -> Iterator[None]:
        (encoder,) = encoders
        self.rows.append((encoder, list(rows)))
        self.open += 1
        yield
        self.open -= 1


def test_equal_chunks_are_one_row_whatever_their_weights(model: Any) -> None:
    calls = Calls()
    prompts = [model.prompter.prepare(text) for text in TEXTS]
    model.prompter.encode(prompts, around=calls)
    assert calls.rows == [(encoder, [0, 2, 4, 5]) for encoder in range(len(model.encoders))]
    assert calls.open == 0


def test_prompts_with_different_keys_share_no_rows(sd: Any) -> None:
    calls = Calls()
    prompts = [sd.prompter.prepare(text) for text in ("red", "red", "blue", "red", "red BREAK red")]
    sd.prompter.encode(prompts, keys=["a", "b", "a", "b", None], around=calls)
    assert calls.rows == [(0, [0, 1, 2, 4])]


def test_a_call_is_changed_for_those_rows_that_its_wrapper_changes(sd: Any) -> None:
    """As adapters of the text encoder do."""

    @contextlib.contextmanager
    def around(_encoders: Sequence[int], rows: Sequence[int]) -> Iterator[None]:
        factors = torch.tensor([[[2.0 if row == 1 else 1.0]] for row in rows])
        hook = sd.encoders[0].register_forward_hook(
            lambda _module, _arguments, out: out.__setitem__("last_hidden_state", out.last_hidden_state * factors)
        )
        yield
        hook.remove()

    prompts = [sd.prompter.prepare("a red circle")] * 3
    one, two, three = sd.prompter.encode(prompts, keys=["x", "y", "x"], around=around)
    torch.testing.assert_close(two.states, 2 * one.states, rtol=1e-5, atol=1e-5)
    assert torch.equal(three.states, one.states)


def test_prompts_are_encoded_alike_alone_and_together(model: Any) -> None:
    together = model.prompter.encode([model.prompter.prepare(text) for text in TEXTS])
    for text, (states, pooled) in zip(TEXTS, together, strict=True):
        alone = model.encode(text)
        torch.testing.assert_close(states, alone[0], rtol=1e-5, atol=1e-5)
        assert pooled is None or torch.allclose(pooled, alone[1], atol=1e-5)


def test_in_calls_of_one_size_they_are_encoded_bit_for_bit_alike(model: Any) -> None:
    calls = Calls()
    prompts = [model.prompter.prepare(text) for text in TEXTS]
    together = model.prompter.encode(prompts, around=calls, rows=3)
    assert [rows for _, rows in calls.rows] == [[0, 2, 4], [5, -1, -1]] * len(model.encoders)
    for prompt, encoded in zip(prompts, together, strict=True):
        (alone,) = model.prompter.encode([prompt], rows=3)
        model.check_same(encoded, alone)


def test_many_chunks_are_several_calls(sd: Any) -> None:
    calls = Calls()
    words = [f"{color} {shape} {size}" for color in "abcde" for shape in "abcde" for size in "abcde"]
    sd.prompter.encode([sd.prompter.prepare(word) for word in words], around=calls)
    assert [len(rows) for _, rows in calls.rows] == [64, 61]


def test_no_prompts_are_no_call(sd: Any) -> None:
    calls = Calls()
    assert sd.prompter.encode([], around=calls) == []
    assert sd.prompter.padded([]) == []
    assert calls.rows == []


def test_what_comes_out_keeps_nothing_else_in_memory(model: Any) -> None:
    for states, pooled in model.prompter.encode([model.prompter.prepare(text) for text in TEXTS]):
        assert states.untyped_storage().nbytes() == states.nbytes
        assert pooled is None or pooled.untyped_storage().nbytes() == pooled.nbytes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_through_and_weights_are_no_less_exact(sd: Any, dtype: torch.dtype) -> None:
    encoder = copy.deepcopy(sd.encoders[0]).to(dtype)
    prompter = Prompter([sd.pipeline.tokenizer], [encoder], penultimate=False)
    plain, weighted = prompter.encode([prompter.prepare(text) for text in ("a red circle", "a (red:1.4) circle")])
    assert weighted.states.dtype is dtype
    expected = plain.states.float()
    mean = expected.mean()
    expected[2] *= 1.4
    assert torch.equal(weighted.states, (expected * (mean / expected.mean())).to(dtype))


def test_prompts_are_read_on_many_threads_at_once(sdxl: Any) -> None:
    texts = [f"a (red:1.{number}) circle, {'blue ' * number}" for number in range(60)]
    expected = [sdxl.prompter.prepare(text) for text in texts]
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(sdxl.prompter.prepare, texts))
    assert read == expected
    assert [one.chunks[0][0].weights for one in read] == [one.chunks[0][0].weights for one in expected]


def test_a_model_that_masks_its_padding_gets_its_mask(sd: Any) -> None:
    pipeline = copy.deepcopy(sd.pipeline)
    pipeline.text_encoder.config.use_attention_mask = True
    masked = sd._replace(
        pipeline=pipeline, prompter=Prompter([pipeline.tokenizer], [pipeline.text_encoder], penultimate=False)
    )
    reference = masked.reference("a red circle")
    masked.check_same(masked.encode("a red circle"), reference)
    assert not torch.equal(reference[0], sd.reference("a red circle")[0])


def test_a_tokenizer_that_knows_no_end_reads_what_its_encoder_does(sd: Any) -> None:
    tokenizer = copy.deepcopy(sd.pipeline.tokenizer)
    tokenizer.model_max_length = int(1e30)
    prompter = Prompter([tokenizer], [sd.encoders[0]], penultimate=False)
    assert prompter.prepare("red " * 80).tokens == 2 * 77
