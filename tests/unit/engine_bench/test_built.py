"""Models with random weights: of the published sizes, and such that they can be drawn with."""

from dataclasses import replace

import pytest
import torch

from collodion.worker.registry import Part
from collodion.worker.registry.modules import build
from engine_bench.built import random_parts, write_configs
from engine_bench.recipes import RECIPES, recipe

# As the published models have them.
NUMBERS = {
    ("sd15", "unet"): 859_520_964,
    ("sd15", "vae"): 83_653_863,
    ("sd15", "text_encoder"): 123_060_480,
    ("sdxl", "unet"): 2_567_463_684,
    ("sdxl", "text_encoder_2"): 694_659_840,
    ("sd3", "transformer"): 2_028_328_000,
    ("sd3", "vae"): 83_819_683,
    ("flux", "transformer"): 11_901_408_320,
    ("flux", "text_encoder_2"): 4_762_310_656,
}


@pytest.mark.parametrize(("model", "name"), NUMBERS)
def test_a_part_has_as_many_numbers_as_the_published_one(model, name):
    made = recipe(model)
    part = Part(name, *made.parts[name])
    few_positions = (
        {"pos_embed_max_size": 4, "sample_size": 8} if model == "sd3" else {}
    )  # they are computed, and take long
    module = build(part, {**made.configs[name], **few_positions}, torch.bfloat16)
    if part.library == "transformers":
        module.tie_weights()
    assert sum(parameter.numel() for parameter in module.parameters()) == NUMBERS[model, name]


@pytest.mark.parametrize("name", RECIPES)
def test_every_part_of_a_recipe_has_a_configuration(name):
    made = recipe(name)
    assert made.parts.keys() == made.configs.keys()


@pytest.fixture(scope="module")
def middle(tmp_path_factory):
    return write_configs(recipe("middle"), tmp_path_factory.mktemp("middle"), "middle")


@pytest.fixture(scope="module")
def parts(middle):
    return random_parts(middle, torch.float32, torch.device("cpu"))


def test_the_same_numbers_are_drawn_in_every_precision(middle, parts):
    alone = replace(middle, parts=(middle.part("vae"),))
    half = random_parts(alone, torch.bfloat16, torch.device("cpu"))["vae"]
    for ours, theirs in zip(parts["vae"].parameters(), half.parameters(), strict=True):
        assert torch.equal(ours.to(torch.bfloat16), theirs)


def test_what_goes_through_a_random_model_stays_as_large_as_it_was(parts):
    with torch.inference_mode():
        states = torch.randn(1, 77, 256)
        predicted = parts["unet"](torch.randn(1, 4, 16, 16), torch.tensor([500.0]), states, return_dict=False)[0]
        pixels = parts["vae"].decode(predicted, return_dict=False)[0]
    assert 0.1 < float(predicted.std()) < 3
    assert 0.1 < float(pixels.std()) < 3


def test_nothing_of_a_random_model_is_left_without_memory(parts):
    modules = [part for part in parts.values() if isinstance(part, torch.nn.Module)]
    assert len(modules) == 3
    assert not any(tensor.is_meta for part in modules for tensor in (*part.parameters(), *part.buffers()))
    assert not any(part.training for part in modules)
