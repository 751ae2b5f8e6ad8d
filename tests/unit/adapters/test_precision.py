"""Half precision, files of every dtype, and rows that do not spoil each other."""

import pytest
import torch
from tiny_pipelines import MADE, denoise, encode, inputs, prompts
from torch import nn
from written_files import attention_only, diffusers_file, kohya_file, write

from collodion.worker.adapters.adapters import AdapterBudgets, Adapters
from collodion.worker.adapters.changes import Change

PLENTY = AdapterBudgets(1 << 30, 1 << 30)
KEY = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"


def cast(call, dtype):
    return {name: value.to(dtype) if name != "timestep" else value for name, value in call.items()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_has_adapters_in_half_precision(dtype, tmp_path):
    exact, half = MADE["sd1"](), {name: model.to(dtype) for name, model in MADE["sd1"]().items()}
    # alpha / rank = 1 / 64: folded into one factor alone, it would push float16 towards its end
    file = kohya_file(tmp_path / "x.safetensors", exact, rank=16, alpha=0.25, wanted=attention_only)
    call = inputs("sd1", 3)
    outputs = []
    for components, kind in ((exact, torch.float32), (half, dtype)):
        adapters = Adapters(components, PLENTY)
        use = adapters.load(file).at(20.0)
        with torch.inference_mode(), adapters.applied(adapters.select("unet", [(), (use,), (use, use)])):
            outputs.append(denoise(components, cast(call, kind)).float())
        assert {site.pool.down.dtype for site in adapters.sites["unet"].values()} == {kind}
    plain = denoise(exact, call)
    error = (outputs[1] - outputs[0]).abs().max() / outputs[0].abs().max()
    assert error < (0.01 if dtype is torch.float16 else 0.06)
    assert (outputs[0] - plain)[1:].flatten(1).abs().amax(1).min() > 0.1


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_files_of_every_dtype_are_read(dtype, tmp_path):
    components = MADE["sd1"]()
    file = kohya_file(tmp_path / "x.safetensors", components, alpha=2.0, wanted=attention_only, dtype=dtype)
    same = kohya_file(tmp_path / "y.safetensors", components, alpha=2.0, wanted=attention_only)
    adapters = Adapters(components, PLENTY)
    call = inputs("sd1", 2)
    rows = [(adapters.load(file).at(0.3),), (adapters.load(same).at(0.3),)]
    call = {name: torch.cat([value[:1]] * 2) for name, value in call.items()}
    with torch.inference_mode(), adapters.applied(adapters.select("unet", rows)):
        one, other = denoise(components, call)
    assert (one - other).abs().max() < 0.1


@pytest.mark.parametrize("every_row", [True, False])
def test_an_adapter_that_overflows_spoils_its_own_row_and_no_other(every_row, tmp_path):
    components = {name: model.half() for name, model in MADE["sd1"]().items()}
    loud = write(
        tmp_path / "loud.safetensors",
        {KEY + ".lora_down.weight": torch.full((4, 32), 6e4), KEY + ".lora_up.weight": torch.full((32, 4), 6e4)},
    )
    quiet = kohya_file(tmp_path / "quiet.safetensors", components, wanted=attention_only)
    adapters = Adapters(components, PLENTY, every_row=every_row)
    call = cast(inputs("sd1", 4), torch.float16)
    rows = [(), (adapters.load(loud).at(1.0),), (adapters.load(quiet).at(0.1),), ()]
    with torch.inference_mode(), adapters.applied(adapters.select("unet", rows)):
        out = denoise(components, call)
    assert [bool(row.isfinite().all()) for row in out] == [True, False, True, True]


def test_rows_without_adapters_are_the_same_bits_as_in_a_batch_without_any(tmp_path):
    components = MADE["sd1"]()
    file = diffusers_file(tmp_path / "x.safetensors", components, rank=5, wanted=lambda *_: True)
    adapters = Adapters(components, PLENTY)
    call = inputs("sd1", 4)
    plain = denoise(components, call)
    use = adapters.load(file).at(1.0)
    with torch.inference_mode(), adapters.applied(adapters.select("unet", [(), (use,), (use, use), ()])):
        out = denoise(components, call)
    assert torch.equal(out[::3], plain[::3])
    assert not torch.equal(out[1:3], plain[1:3])


def test_a_module_in_another_dtype_than_what_it_reads_is_changed_in_its_own(tmp_path):
    """As T5 has it, which keeps some of its layers in float32; and under autocast."""
    components = MADE["sd1"]()
    file = diffusers_file(tmp_path / "x.safetensors", components, wanted=attention_only)
    adapters = Adapters(components, PLENTY)
    use = adapters.load(file).at(0.5)
    ids = prompts(2)
    with adapters.applied(adapters.select("text_encoder", [(use,), ()])):
        exact = encode(components, ids)
        with torch.autocast("cpu", torch.bfloat16):
            rough = encode(components, ids)
    assert (exact - rough.float()).abs().max() < 0.1


def test_a_module_that_is_called_with_several_entries_a_row_has_the_rows_adapters_in_each(tmp_path):
    model = nn.ModuleDict({"layer": nn.Linear(6, 4), "mixer": nn.Conv2d(2, 3, 1)})
    torch.manual_seed(0)
    down, up = torch.randn(2, 6), torch.randn(4, 2)
    file = write(tmp_path / "x.safetensors", {"unet.layer.lora_A.weight": down, "unet.layer.lora_B.weight": up})
    for every_row in (True, False):
        adapters = Adapters({"unet": model}, PLENTY, every_row=every_row)
        use = adapters.load(file).at(1.0)
        tokens = torch.randn(6, 3, 6)
        plain = model["layer"](tokens)
        for rows, changed in (
            ([(use,), ()], slice(0, 3)),
            ([(), (use,)], slice(3, 6)),
            ([(use,), (use,)], slice(0, 6)),
        ):
            with torch.no_grad(), adapters.applied(adapters.select("unet", rows)):
                out = model["layer"](tokens)
            expected = plain.clone()
            expected[changed] += tokens[changed] @ down.T @ up.T
            assert torch.allclose(out, expected, atol=1e-5)
        adapters.close()


def test_outputs_in_another_memory_format_are_changed_all_the_same(tmp_path):
    torch.manual_seed(0)
    model = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3, padding=1), "point": nn.Conv2d(4, 5, 1)})
    file = diffusers_file(tmp_path / "x.safetensors", {"unet": model}, rank=2, wanted=lambda *_: True)
    adapters = Adapters({"unet": model}, PLENTY)
    use = adapters.load(file).at(1.0)
    images = torch.randn(3, 3, 6, 6)
    for rows in ([(use,), (), (use,)], [(use,)] * 3):
        selection = adapters.select("unet", rows)
        with torch.no_grad(), adapters.applied(selection):
            one = model["point"](model["conv"](images))
            other = model["point"](model["conv"](images.to(memory_format=torch.channels_last)))
        assert torch.allclose(one, other, atol=1e-5)
        assert isinstance(selection.changes[0][1], Change)
