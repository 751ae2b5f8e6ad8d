"""A denoiser in parts is the denoiser, and its deep part knows nothing of who else is in the call."""

import pytest
import tiny_models
import torch
from walking import Walker, apart, architecture, architecture_around, call_of

from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.step_cache.parts import rows_of

SHORT, LONG = ("a red circle", "blue"), ("two small green squares and many more", "")
UNETS = {
    "two layers to a block": {"layers_per_block": 2},
    "attention outside": {
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (8, 16, 16),
        "layers_per_block": 2,
    },
    "one block": {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)},
}


def stable_diffusion(**unet):
    scheduler = tiny_models.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **tiny_models.BETAS)
    return tiny_models.stable_diffusion(scheduler, **unet)


def rows_for(model, size=(64, 64), prompts=(SHORT, LONG)):
    walkers = [Walker(each, seed, size=size) for seed, each in enumerate(prompts)]
    for walker in walkers:
        walker.begin(model)
    return call_of(walkers)[0]


def in_parts(model, rows):
    parts = model.parts()
    carried, _ = parts.shallow(model.call(rows))
    return model.answer(parts.tail(carried, parts.deep(carried)), rows)


@pytest.mark.parametrize("name", tiny_models.MODELS)
@torch.inference_mode()
def test_the_parts_one_after_the_other_are_the_denoiser_bit_for_bit(name):
    model = architecture(name)
    assert model.step_cache
    rows = rows_for(model)
    assert torch.equal(in_parts(model, rows), model.predict(rows))


@pytest.mark.parametrize("options", UNETS.values(), ids=list(UNETS))
@pytest.mark.parametrize("size", [(64, 64), (72, 56)], ids=["even", "uneven"])
@torch.inference_mode()
def test_a_unet_of_any_build_and_size_is_its_parts(options, size):
    torch.manual_seed(0)
    model = architecture_around(stable_diffusion(**options))
    rows = rows_for(model, size)
    assert torch.equal(in_parts(model, rows), model.predict(rows))


@torch.inference_mode()
def test_prompts_of_any_length_are_behind_the_same_masks():
    model = architecture("sdxl")
    rows = rows_for(model)
    states = rows.texts["states"]
    lengths = torch.arange(len(states))[:, None] + 3 > torch.arange(states.shape[1])
    masked = type(rows)(
        rows.inputs, rows.timesteps, {**rows.texts, "states_mask": lengths}, rows.guidance, rows.lengths
    )
    assert torch.equal(in_parts(model, masked), model.predict(masked))
    assert apart(in_parts(model, masked), model.predict(rows)) > 1e-4


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd35", "flux_dev", "qwen_image", "z_image"])
@torch.inference_mode()
def test_the_deep_part_of_some_rows_in_any_order_is_theirs(name):
    model = architecture(name)
    parts = model.parts()
    carried, _ = parts.shallow(model.call(rows_for(model)))
    everything = parts.deep(carried)
    some = torch.tensor([2, 0, 2])
    assert apart(parts.deep(carried.of(some)), everything[some]) < 1e-5


@pytest.mark.parametrize("name", ["sd1", "sd35", "flux_dev", "qwen_image", "z_image"])
@torch.inference_mode()
def test_what_is_kept_stands_for_the_deep_part_of_the_same_evaluation(name):
    model = architecture(name)
    parts = model.parts()
    carried, _ = parts.shallow(model.call(rows_for(model)))
    deep = parts.deep(carried)
    again = parts.again(carried, parts.kept(carried, deep))
    one, other = (torch.as_tensor(model.answer(parts.tail(carried, each), rows_for(model))) for each in (again, deep))
    assert apart(one, other) < 1e-5


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd35", "flux_dev", "qwen_image", "z_image"])
@torch.inference_mode()
def test_the_deep_part_matters(name):
    model = architecture(name)
    parts, rows = model.parts(), rows_for(model)
    carried, _ = parts.shallow(model.call(rows))
    without = model.answer(parts.tail(carried, torch.zeros_like(parts.deep(carried))), rows)
    assert apart(without, model.predict(rows)) > 1e-2


@torch.inference_mode()
def test_rows_lie_in_memory_as_the_call_does():
    model = architecture_around(stable_diffusion())
    model.denoiser.to(memory_format=torch.channels_last)
    last = {"memory_format": torch.channels_last}
    rows = rows_for(model)
    call = {**model.call(rows), "sample": rows.inputs.contiguous(**last)}
    parts = model.parts()
    carried, change = parts.shallow(call)
    some = carried.of(torch.tensor([2, 0]))
    made = change, carried.hidden, some.noisy, some.hidden, parts.deep(some), rows_of(change, torch.tensor([1]))
    assert all(tensor.is_contiguous(**last) for tensor in made)
    assert torch.equal(some.hidden, carried.hidden[[2, 0]])
    assert apart(parts.tail(carried, parts.deep(carried)), in_parts(model, rows)) < 1e-5


def test_a_transformer_of_one_block_has_no_parts():
    torch.manual_seed(0)
    pipeline = tiny_models.sd3()
    pipeline.transformer.transformer_blocks = pipeline.transformer.transformer_blocks[-1:]
    with pytest.raises(Unsuitable, match="fewer than 2 blocks"):
        architecture_around(pipeline).parts()


def test_a_unet_of_other_blocks_has_no_parts():
    model = architecture_around(stable_diffusion(down_block_types=("ResnetDownsampleBlock2D", "CrossAttnDownBlock2D")))
    with pytest.raises(Unsuitable, match="ResnetDownsampleBlock2D"):
        model.parts()
