"""A file that is not understood to its last key, or that does not fit, is refused with a sentence that says which key it was."""

import json

import pytest
import torch
from tiny_pipelines import MADE
from written_files import attention_only, diffusers_file, kohya_file, write

from collodion.worker.adapters.adapters import AdapterBudgets, Adapters
from collodion.worker.registry.errors import ModelUnusable

KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
DOWN, UP = KEY + ".lora_down.weight", KEY + ".lora_up.weight"
ALPHA = KEY + ".alpha"


@pytest.fixture(scope="module")
def adapters():
    return Adapters(MADE["sd1"](), AdapterBudgets(1 << 28, 1 << 28))


def good(**more):
    return {DOWN: torch.randn(4, 16), UP: torch.randn(16, 4), **more}


def nan(*shape):
    return torch.full(shape, float("nan"))


REFUSED = {
    "DoRA": (good(**{KEY + ".dora_scale": torch.ones(16, 1)}), "DoRA", "dora_scale"),
    "DoRA of peft": (good(**{"unet.x.lora_magnitude_vector": torch.ones(16)}), "DoRA", "lora_magnitude_vector"),
    "OFT": ({KEY + ".oft_blocks": torch.ones(2, 8, 8)}, "OFT", "oft_blocks"),
    "GLoRA": ({KEY + ".a1.weight": torch.ones(2, 8)}, "GLoRA", "a1.weight"),
    "IA3": ({KEY + ".weight": torch.ones(16), KEY + ".on_input": torch.ones(1)}, "IA3", "on_input"),
    "norms": (good(**{"lora_unet_conv_norm_out.w_norm": torch.ones(16)}), "norms", "w_norm"),
    "an embedding inside": (good(**{"bundle_emb.cat.clip_l": torch.ones(1, 24)}), "embedding beside", "bundle_emb"),
    "an embedding": ({"emb_params": torch.ones(1, 24)}, "is an embedding", ""),
    "an embedding of SDXL": ({"clip_l": torch.ones(1, 24), "clip_g": torch.ones(1, 24)}, "is an embedding", ""),
    "a checkpoint": ({"unet.conv_in.weight": torch.ones(2)}, "not understood", "unet.conv_in.weight"),
    "a key too many": (good(strange=torch.ones(1)), "not understood", "strange"),
    "a module that the model has not": (
        good(**{"lora_unet_nowhere.lora_down.weight": torch.ones(1, 2), "lora_unet_nowhere.lora_up.weight": torch.ones(2, 1)}),
        "no module of that name",
        "lora_unet_nowhere",
    ),
    "a text encoder that the architecture has not": (
        good(**{"lora_te2_x.lora_down.weight": torch.ones(1, 2), "lora_te2_x.lora_up.weight": torch.ones(2, 1)}),
        "do not have",
        "lora_te2_x",
    ),
    "half a product": ({DOWN: torch.ones(4, 16)}, "lacks up", DOWN),
    "only an alpha": ({ALPHA: torch.tensor(1.0)}, "nothing but alpha", ALPHA),
    "too wide": ({DOWN: torch.ones(4, 24), UP: torch.ones(16, 4)}, "(16, 24)", DOWN),
    "too high": ({DOWN: torch.ones(4, 16), UP: torch.ones(24, 4)}, "has 24 rows", DOWN),
    "factors that do not meet": ({DOWN: torch.ones(4, 16), UP: torch.ones(16, 5)}, "factors have shapes", DOWN),
    "a factor that is a cube": ({DOWN: torch.ones(4, 16, 1), UP: torch.ones(16, 4)}, "(4, 16, 1)", DOWN),
    "no rank": ({DOWN: torch.ones(0, 16), UP: torch.ones(16, 0)}, "(0, 16)", DOWN),
    "an alpha that is many": (good(**{ALPHA: torch.ones(2)}), "alpha has shape", ALPHA),
    "an alpha that is none": (good(**{ALPHA: nan(1)}), "NaN or infinity", ALPHA),
    "NaN": ({DOWN: nan(4, 16), UP: torch.ones(16, 4)}, "NaN or infinity", DOWN),
    "infinity": ({DOWN: torch.ones(4, 16), UP: torch.full((16, 4), float("inf"))}, "NaN or infinity", UP),
    "whole numbers": ({DOWN: torch.ones(4, 16, dtype=torch.int8), UP: torch.ones(16, 4)}, "stored as I8", DOWN),
    "LoHa of wrong shapes": (
        {KEY + ".hada_w1_a": torch.ones(16, 2), KEY + ".hada_w1_b": torch.ones(2, 16), KEY + ".hada_w2_a": torch.ones(16, 2),
         KEY + ".hada_w2_b": torch.ones(2, 8)},
        "two products",
        "hada_w1_a",
    ),
    "LoKr that is too large": (
        {KEY + ".lokr_w1": torch.ones(400, 400), KEY + ".lokr_w2": torch.ones(400, 400)}, "160000 rows", "lokr_w1"
    ),
    "LoKr without a factor": ({KEY + ".lokr_w1": torch.ones(4, 4)}, "lacks a factor", "lokr_w1"),
    "a difference of another shape": ({KEY + ".diff": torch.ones(16, 15)}, "(16, 15)", "diff"),
    "a bias of another shape": (good(**{KEY + ".diff_b": torch.ones(3)}), "3 rows", KEY),
    "the same twice, and differently": (
        good(**{"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.ones(4, 16),
                "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight": torch.ones(16, 4)}),
        "twice",
        "attn1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_with_a_sentence_that_names_file_and_key(what, adapters, tmp_path):
    tensors, reason, key = REFUSED[what]
    path = write(tmp_path / "strange.safetensors", tensors)
    with pytest.raises(ModelUnusable) as refused:
        adapters.load(path)
    assert str(path) in refused.value.reason
    assert reason in refused.value.reason
    assert key in refused.value.reason


def test_a_file_that_is_no_safetensors_file_is_refused(adapters, tmp_path):
    whole = diffusers_file(tmp_path / "whole.safetensors", MADE["sd1"](), wanted=attention_only).read_bytes()
    hostile = {
        "empty": b"",
        "short": whole[:-1],
        "shorter": whole[:50],
        "lying": (1 << 62).to_bytes(8, "little") + whole[8:],
        "text": b"not a safetensors file at all",
        "nothing": (2).to_bytes(8, "little") + b"{}",
    }
    for name, data in hostile.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(ModelUnusable, match=str(path)):
            adapters.load(path)
    with pytest.raises(ModelUnusable, match="cannot be read"):
        adapters.load(tmp_path / "absent.safetensors")


def test_an_adapter_of_another_architecture_is_refused(adapters, tmp_path):
    for name in ("sdxl", "flux", "sd3"):
        foreign = diffusers_file(tmp_path / f"{name}.safetensors", MADE[name](), wanted=attention_only)
        with pytest.raises(ModelUnusable):
            adapters.load(foreign)
    fitting = kohya_file(tmp_path / "sd1.safetensors", MADE["sd1"](), wanted=attention_only)
    assert adapters.load(fitting).kind == "low_rank"


def test_settings_of_peft_that_are_none_are_refused(adapters, tmp_path):
    base = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {base + ".lora_A.weight": torch.ones(4, 16), base + ".lora_B.weight": torch.ones(16, 4)}
    for name, said in {
        "text": "{",
        "list": "[]",
        "word": json.dumps({"unet.lora_alpha": "much"}),
        "nan": '{"unet.lora_alpha": NaN}',
        "pattern": json.dumps({"unet.lora_alpha": 1, "unet.alpha_pattern": {"to_q": None}}),
        "dora": json.dumps({"unet.lora_alpha": 1, "unet.use_dora": True}),
    }.items():
        path = write(tmp_path / f"{name}.safetensors", tensors, {"lora_adapter_metadata": said})
        with pytest.raises(ModelUnusable, match=str(path)):
            adapters.load(path)


def test_numbers_that_the_models_dtype_cannot_hold_are_refused(tmp_path):
    components = {name: model.half() for name, model in MADE["sd1"]().items()}
    adapters = Adapters(components, AdapterBudgets(1 << 28, 1 << 28))
    path = write(tmp_path / "loud.safetensors", {DOWN: torch.full((4, 16), 1e6), UP: torch.ones(16, 4)})
    with pytest.raises(ModelUnusable, match="float16 cannot hold"):
        adapters.load(path)


def test_modules_that_are_not_called_row_by_row_can_be_left_out(tmp_path):
    components = MADE["sd1"]()
    path = diffusers_file(tmp_path / "x.safetensors", components, wanted=attention_only)
    adapters = Adapters(components, AdapterBudgets(1 << 28, 1 << 28), exclude=("unet.mid_block.",))
    with pytest.raises(ModelUnusable, match="mid_block"):
        adapters.load(path)
    adapters.close()
