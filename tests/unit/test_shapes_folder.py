"""The shipped folder of the embedded model: what is in it, and that it loads and encodes any text."""

from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import collodion.worker

FOLDER = Path(next(iter(collodion.worker.__path__))) / "shapes"
MOST_BYTES = 16 * 2**20


def test_the_folder_is_small_and_holds_weights_as_safetensors_only() -> None:
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md"}
    assert len([file for file in files if file.suffix == ".safetensors"]) == 3


def test_the_weights_are_half_precision_and_finite() -> None:
    from safetensors.torch import load_file

    for file in FOLDER.rglob("*.safetensors"):
        for name, tensor in load_file(file).items():
            assert tensor.dtype == torch.float16, (file.parent.name, name)
            assert tensor.isfinite().all(), (file.parent.name, name)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
@example("日本 é 🎉 \x00 \U0010ffff")
@example("")
def test_any_text_encodes_without_an_unknown_token(tokenizer, text: str) -> None:
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in tokens or "<|endoftext|>" in text.lower()


def test_each_word_of_a_caption_is_one_token(tokenizer) -> None:
    words = "a large red circle next to two small purple triangles on an orange background"
    assert len(tokenizer(words, add_special_tokens=False).input_ids) == len(words.split())


def test_the_pipeline_loads_and_draws(recwarn: pytest.WarningsRecorder) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER, dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    dice = torch.Generator().manual_seed(0)
    (image,) = pipeline("a large red circle on a blue background", num_inference_steps=2, generator=dice).images
    assert image.size == (32, 32)
    assert pipeline.text_encoder.config.max_position_embeddings == pipeline.tokenizer.model_max_length
