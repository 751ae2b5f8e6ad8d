"""Text encoders of the real architectures with random weights, and the diffusers pipelines that are the reference."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from collodion.worker.prompting.prompter import Prompter

TOKENIZER = Path(__file__).parents[3] / "worker" / "collodion" / "worker" / "shapes" / "tokenizer"
WINDOW = 77


class Model(NamedTuple):
    """A pipeline without anything but its text encoders, and a prompter for them."""

    pipeline: Any
    prompter: Prompter

    def reference(self, text: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(tokens, width) and (width,), by diffusers."""
        with torch.inference_mode():
            encoded = self.pipeline.encode_prompt(
                text, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        return encoded[0][0], encoded[2][0] if len(encoded) == 4 else None

    @property
    def encoders(self) -> list[Any]:
        """The pipeline's text encoders."""
        return [self.pipeline.text_encoder, *filter(None, [getattr(self.pipeline, "text_encoder_2", None)])]

    @staticmethod
    def check_same(one: Any, other: Any) -> None:
        """Bit for bit."""
        for mine, theirs in zip(one, other, strict=True):
            assert mine is theirs is None or torch.equal(mine, theirs)

    def encode(self, text: str, embeddings: Any = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The same, by us, with weights."""
        (encoded,) = self.prompter.encode([self.prompter.prepare(text, embeddings or {})])
        return encoded


def _tokenizer(**changed: Any) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=WINDOW, **changed)


def _config(**changed: Any) -> Any:
    from transformers import CLIPTextConfig

    sensible = {
        "vocab_size": 643,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": WINDOW,
        "bos_token_id": 641,
        "eos_token_id": 642,
        "pad_token_id": 642,
        "initializer_factor": 4.0,
    }
    return CLIPTextConfig(**{**sensible, **changed})


@pytest.fixture(scope="session")
def sd() -> Model:
    """Stable Diffusion 1: the last states of one encoder."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=None,
        unet=None,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        tokenizer=_tokenizer(),
        text_encoder=CLIPTextModel(_config()).eval(),
    )
    return Model(pipeline, Prompter([pipeline.tokenizer], [pipeline.text_encoder], penultimate=False))


@pytest.fixture(scope="session")
def sdxl() -> Model:
    """SDXL: the last states but one of two encoders; the second pads with another token, and finds the end the old way."""
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(1)
    pipeline = StableDiffusionXLPipeline(
        vae=None,
        unet=None,
        scheduler=None,
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(pad_token="!"),
        text_encoder=CLIPTextModel(_config()).eval(),
        text_encoder_2=CLIPTextModelWithProjection(
            _config(hidden_size=48, projection_dim=24, pad_token_id=0, eos_token_id=2, hidden_act="gelu")
        ).eval(),
    )
    tokenizers = [pipeline.tokenizer, pipeline.tokenizer_2]
    return Model(pipeline, Prompter(tokenizers, [pipeline.text_encoder, pipeline.text_encoder_2], penultimate=True))


@pytest.fixture(params=["sd", "sdxl"])
def model(request: pytest.FixtureRequest) -> Model:
    """Each of them."""
    found: Model = request.getfixturevalue(request.param)
    return found
