"""The reference are encoders whose tables hold the vectors, as rows of tokens that the prompts do not use otherwise."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from collodion.worker.prompting.embeddings import Embedding, EmbeddingFiles, EmbeddingUnusable, read_embedding


def tensors(model: Any, vectors: int) -> dict[str, torch.Tensor]:
    """What a file for the model holds."""
    torch.manual_seed(3)
    widths = [encoder.config.hidden_size for encoder in model.encoders]
    return {key: torch.randn(vectors, width) for key, width in zip(("clip_l", "clip_g"), widths, strict=False)}


def moss(model: Any, vectors: int = 2) -> dict[str, Embedding]:
    return {"moss": read_embedding("moss", tensors(model, vectors))}


def reference(model: Any, text: str, embedding: Embedding) -> Any:
    """What diffusers encodes where % and & stand for the vectors."""
    changed = model._replace(pipeline=copy.deepcopy(model.pipeline))
    for encoder, vectors in zip(changed.encoders, embedding.vectors, strict=True):
        table = encoder.get_input_embeddings().weight.data
        for symbol, vector in zip("%&", vectors, strict=False):
            (token,) = model.pipeline.tokenizer(symbol, add_special_tokens=False).input_ids
            table[token] = vector
    return changed.reference(text)


@pytest.mark.parametrize("name", ["moss", "embedding:moss", "Moss", "embedding:moss.safetensors"])
def test_an_embedding_stands_in_the_place_of_its_name(model: Any, name: str) -> None:
    embeddings = moss(model)
    encoded = model.encode(f"a {name} circle", embeddings)
    model.check_same(encoded, reference(model, "a % & circle", embeddings["moss"]))
    assert not torch.equal(encoded[0], model.reference(f"a {name} circle")[0])


def test_it_is_what_diffusers_makes_of_the_same_file(sd: Any, tmp_path: Path) -> None:
    save_file({"moss": tensors(sd, 3)["clip_l"]}, tmp_path / "moss.safetensors")
    changed = sd._replace(pipeline=copy.deepcopy(sd.pipeline))
    changed.pipeline.load_textual_inversion(str(tmp_path / "moss.safetensors"), token="moss")
    mine = sd.encode("a moss, moss circle", EmbeddingFiles({"moss": tmp_path / "moss.safetensors"}))
    sd.check_same(mine, changed.reference("a moss, moss circle"))


def test_weights_are_on_all_its_vectors(model: Any) -> None:
    embeddings = moss(model)
    plain, _ = reference(model, "a % & circle", embeddings["moss"])
    states, _ = model.encode("a (moss:1.5) circle", embeddings)
    width = model.encoders[0].config.hidden_size
    plain, states = plain[:, :width], states[:, :width]
    expected = plain.clone()
    expected[2:4] *= 1.5
    torch.testing.assert_close(states, expected * plain.mean() / expected.mean(), rtol=1e-6, atol=1e-6)


def test_prompts_beside_it_do_not_see_it_nor_those_that_come_after(model: Any) -> None:
    embeddings, prompter = moss(model), model.prompter
    before = [encoder.get_input_embeddings().weight.clone() for encoder in model.encoders]
    texts = ["a moss circle", "a ! circle", "moss"]
    together = prompter.encode([prompter.prepare(text, embeddings) for text in texts] + [prompter.prepare("moss")])
    for text, encoded in zip(texts, together, strict=False):
        torch.testing.assert_close(encoded.states, model.encode(text, embeddings)[0], rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(together[3].states, model.reference("moss")[0], rtol=1e-6, atol=2e-6)
    for encoder, table in zip(model.encoders, before, strict=True):
        assert torch.equal(encoder.get_input_embeddings().weight, table)
        assert not encoder.get_input_embeddings()._forward_hooks
    model.check_same(model.encode("a moss circle"), model.reference("a moss circle"))


def test_embeddings_of_one_name_and_other_vectors_are_not_mixed_up(sd: Any) -> None:
    one = moss(sd)
    other = {"moss": read_embedding("moss", {"x": -one["moss"].vectors[0]})}
    prompts = [sd.prompter.prepare("moss", embeddings) for embeddings in (one, other, one)]
    first, second, third = (encoded.states for encoded in sd.prompter.encode(prompts))
    assert torch.equal(first, third)
    assert not torch.equal(first, second)


def test_a_long_embedding_moves_on_to_the_next_chunk(sd: Any) -> None:
    read = sd.prompter.prepare("a red circle, moss", moss(sd, 75))
    assert read.tokens == 2 * 77
    assert [insert.place for insert in read.chunks[0][1].inserts] == [1]


def test_an_embedding_that_is_not_there_is_told_and_left_out(model: Any) -> None:
    read = model.prompter.prepare("a embedding:fern circle", moss(model), "negative prompt")
    assert read.chunks == model.prompter.prepare("a circle").chunks
    assert read.warnings == (
        ("EMBEDDING_NOT_FOUND", "the negative prompt names an embedding 'fern', which is not there"),
    )


def test_a_word_that_is_an_embedding_for_other_models_is_a_word_and_that_is_told(model: Any) -> None:
    foreign = {"circle": read_embedding("circle", {"x": torch.ones(2, 7)})}
    read = model.prompter.prepare("a circle", foreign)
    assert read.chunks == model.prompter.prepare("a circle").chunks
    ((reason, message),) = read.warnings
    assert reason == "EMBEDDING_UNUSABLE"
    assert message.startswith("the embedding 'circle' is for text encoders of width 7; the model's are of width 32")


def test_asking_for_an_embedding_for_other_models_is_an_error(model: Any, tmp_path: Path) -> None:
    foreign = {"circle": read_embedding("circle", {"x": torch.ones(2, 7)})}
    with pytest.raises(EmbeddingUnusable, match="width 7"):
        model.prompter.prepare("a embedding:circle", foreign)
    (tmp_path / "moss.safetensors").write_bytes(b"moss")
    with pytest.raises(EmbeddingUnusable, match="cannot be read"):
        model.prompter.prepare("embedding:moss", EmbeddingFiles({"moss": tmp_path / "moss.safetensors"}))


def test_embeddings_that_a_prompt_does_not_name_are_not_read(sd: Any, tmp_path: Path) -> None:
    files = EmbeddingFiles({"moss": tmp_path / "gone.safetensors"})
    assert sd.prompter.prepare("a mossy circle", files).warnings == ()
