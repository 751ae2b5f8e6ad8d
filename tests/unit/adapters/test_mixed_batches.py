"""Rows with different adapters in one call: each equals itself alone, and diffusers' model with its adapters fused."""

import functools

import pytest
import tiny_pipelines
import torch
from tiny_pipelines import MADE, denoise, encode, inputs, pipeline, prompts, row_of
from written_files import attention_only, diffusers_file, kohya_file, linear_only

from collodion.worker.adapters.adapters import AdapterBudgets, Adapters

PLENTY = AdapterBudgets(device_bytes=1 << 30, host_bytes=1 << 30)
BOUND = 1e-4


def fused(name, parts):
    """The components with these (file, scale) pairs fused into them by diffusers."""
    return _fused(name, tuple((file, scale) for file, scale in parts if scale))


@functools.cache
def _fused(name, parts):
    components = MADE[name]()
    own = pipeline(name, components)
    for file, scale in parts:
        own.load_lora_weights(str(file), adapter_name="fused")
        own.fuse_lora(components=list(components), lora_scale=scale)
        own.unload_lora_weights()
    return components


def denoiser(components):
    return "unet" if "unet" in components else "transformer"


def everything(component, path, module):
    return component == "unet" and "time_embedding" not in path and "add_embedding" not in path


@pytest.fixture(scope="module", params=list(MADE))
def model(request, tmp_path_factory):
    """Its name, its components with adapters, and files for it: of two ranks, and for SD of convolutions, too."""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    components = MADE[name]()
    files = {
        "a": diffusers_file(folder / "a.safetensors", components, rank=4, seed=1, wanted=linear_only),
        "b": diffusers_file(folder / "b.safetensors", components, rank=7, seed=2, wanted=attention_only),
    }
    if "unet" in components:
        files["b"] = kohya_file(folder / "b.safetensors", components, rank=7, alpha=3.5, seed=2)
        files["locon"] = kohya_file(
            folder / "locon.safetensors", components, rank=3, alpha=1, seed=3, wanted=everything
        )
    adapters = Adapters(components, PLENTY, every_row=False)
    yield name, components, adapters, files
    adapters.close()


def batches(files):
    """Rows as (file, scale) pairs: none, one, another, both, the first again, one that is switched off, convolutions."""
    a, b, c = files["a"], files["b"], files.get("locon", files["a"])
    return [
        [],
        [(a, 1.0)],
        [(b, 0.5)],
        [(a, 0.7), (b, -0.4)],
        [(a, 0.3)],
        [(b, 0.0)],
        [(c, 0.9)],
        [(c, 0.5), (a, 0.5), (b, 0.5)],
    ]


def used(adapters, parts):
    return tuple(adapters.load(file).at(scale) for file, scale in parts)


@torch.inference_mode()
def run(adapters, components, rows, call, size=0, ranks=0):
    selection = adapters.select(denoiser(components), rows, size, ranks)
    with adapters.applied(selection):
        return denoise(components, call)


def test_every_row_of_a_mixed_batch_equals_diffusers_with_its_adapters_fused(model):
    name, components, adapters, files = model
    parts = batches(files)
    call = inputs(name, len(parts))
    ours = run(adapters, components, [used(adapters, row) for row in parts], call)
    for row, pairs in enumerate(parts):
        theirs = denoise(fused(name, pairs), row_of(call, row))
        assert (ours[row : row + 1] - theirs).abs().max() < BOUND, pairs
    plain = denoise(components, call)
    strongest = (ours - plain).flatten(1).abs().amax(1)
    changed = [any(scale for _, scale in row) for row in parts]
    assert [bool(change > 100 * BOUND) for change in strongest] == changed


def test_every_row_of_a_mixed_batch_equals_itself_alone(model):
    name, components, adapters, files = model
    rows = [used(adapters, row) for row in batches(files)]
    call = inputs(name, len(rows))
    together = run(adapters, components, rows, call)
    for row, uses in enumerate(rows):
        alone = run(adapters, components, [uses], row_of(call, row))
        assert (together[row : row + 1] - alone).abs().max() < 1e-5


def test_a_batch_whose_rows_have_the_same_adapters_needs_no_gathering_and_equals_the_gathered_one(model):
    name, components, adapters, files = model
    for scales in ([(0.5, 0.8)] * 3, [(0.5, 0.8), (1.0, -0.3), (0.1, 0.2)]):
        rows = [used(adapters, zip((files["a"], files["b"]), each, strict=True)) for each in scales]
        call = inputs(name, 4)
        shared = run(adapters, components, rows, call, size=4)[:3]
        gathered = run(adapters, components, rows, call, size=4, ranks=12)[:3]
        assert (shared - gathered).abs().max() < 1e-5


def test_looking_at_few_rows_gives_what_looking_at_all_gives(model):
    name, components, adapters, files = model
    other = MADE[name]()
    thorough = Adapters(other, PLENTY)
    few = [[], [], [(files["a"], 0.7)], [(files["b"], 0.5)], [], [], [(files["a"], 0.7)]]
    for parts in (few, few[:4], few[:3], few[:2], [*few, []]):
        call = inputs(name, len(parts))
        ours, theirs = (
            run(each, loaded, [used(each, row) for row in parts], call)
            for each, loaded in ((adapters, components), (thorough, other))
        )
        assert (ours - theirs).abs().max() < 1e-5


def test_padding_has_no_adapters_and_leaves_the_rows_as_they_are(model):
    name, components, adapters, files = model
    rows = [used(adapters, row) for row in batches(files)[:4]]
    call = inputs(name, 6)
    padded = run(adapters, components, rows, call, size=6)
    exact = run(adapters, components, [*rows, (), ()], call)
    assert (padded - exact).abs().max() < 1e-5


def test_a_model_without_anything_applied_is_untouched(model):
    name, components, adapters, files = model
    call = inputs(name, 2)
    before = denoise(MADE[name](), call)
    run(adapters, components, [used(adapters, [(files["a"], 1.0)])] * 2, call)
    assert torch.equal(denoise(components, call), before)
    with adapters.applied(adapters.select(denoiser(components), [(), ()])):
        assert torch.equal(denoise(components, call), before)
    fresh = MADE[name]()
    for component, loaded in components.items():
        assert loaded.state_dict().keys() == fresh[component].state_dict().keys()


def test_prompts_of_one_batch_are_each_encoded_with_their_own_adapters(model):
    name, components, adapters, files = model
    parts = batches(files)
    ids = prompts(len(parts))
    for component in components.keys() & {"text_encoder", "text_encoder_2"}:
        with adapters.applied(adapters.select(component, [used(adapters, row) for row in parts])):
            ours = encode(components, ids, component)
        assert (ours - encode(components, ids, component)).abs().max() > 100 * BOUND
        for row, pairs in enumerate(parts):
            theirs = encode(fused(name, pairs), ids[row : row + 1], component)
            assert (ours[row : row + 1] - theirs).abs().max() < BOUND


def test_the_tiny_models_are_of_every_family_that_adapters_are_made_for():
    assert set(tiny_pipelines.MADE) == {"sd1", "sdxl", "flux", "sd3"}
