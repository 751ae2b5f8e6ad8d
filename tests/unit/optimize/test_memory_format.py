"""Channels last: the same numbers in another layout, with adapters of convolutions by the row."""

import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))

from small_denoisers import call_of, denoiser, far, run
from written_files import diffusers_file, kohya_file, write

from collodion.worker.adapters.adapters import AdapterBudgets, Adapters
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.memory_format import lay_channels_last
from collodion.worker.optimize.projections import fuse_projections
from collodion.worker.registry.sharing import SharedWeights

PLENTY = AdapterBudgets(1 << 28, 1 << 28)


def autoencoder():
    torch.manual_seed(1)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    made = AutoencoderKL(**kinds, block_out_channels=(8, 8), norm_num_groups=2, sample_size=16)
    return made.eval().requires_grad_(False)


def convolutions(model):
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def lies_last(weight):
    return weight.is_contiguous(memory_format=torch.channels_last)


def test_a_unet_and_its_vae_compute_the_same_with_channels_last():
    unet, vae, call = denoiser("unet"), autoencoder(), call_of("unet", 3)
    values = {key: value.clone() for key, value in unet.state_dict().items()}
    latents = torch.randn(2, 4, 8, 8)
    with torch.inference_mode():
        expected, decoded = run(unet, call), vae.decode(latents).sample
        told = lay_channels_last(unet, vae)
        assert far(vae.decode(latents).sample, decoded) < 1e-5
    assert far(run(unet, call), expected) < 1e-5
    changed = [sum(max(each.kernel_size) > 1 for each in convolutions(model)) for model in (unet, vae)]
    counts = [len(convolutions(model)) for model in (unet, vae)]
    assert (told.name, told.value) == ("memory_format", "channels-last")
    assert told.detail.startswith(
        f"{changed[0]} of {counts[0]} convolutions of the denoiser, {changed[1]} of {counts[1]} convolutions of the VAE"
    )
    assert all(lies_last(each.weight) for model in (unet, vae) for each in convolutions(model))
    assert unet.state_dict().keys() == values.keys()
    assert all(torch.equal(value, values[key]) for key, value in unet.state_dict().items())


def test_outputs_of_a_laid_out_convolution_lie_channels_last_whatever_it_is_given():
    unet = denoiser("unet")
    lay_channels_last(unet, autoencoder())
    with torch.inference_mode():
        assert lies_last(unet.conv_in(torch.randn(2, 4, 8, 8)))


@pytest.mark.parametrize("name", ["sd3", "flux", "qwen", "z_image"])
def test_a_transformer_is_refused(name):
    vae = autoencoder()
    with pytest.raises(Unsuitable, match="the denoiser is a transformer"):
        lay_channels_last(denoiser(name), vae)
    assert not any(lies_last(each.weight) for each in convolutions(vae) if max(each.kernel_size) > 1)


def test_models_that_share_weights_go_on_sharing_them():
    shared, unet = SharedWeights(), denoiser("unet")
    shared.keep("file", unet)
    told = lay_channels_last(unet, autoencoder())
    addresses = [parameter.data_ptr() for parameter in unet.parameters()]
    other = shared.find("file")
    assert other is not None
    assert lay_channels_last(other, autoencoder()) == told
    assert all(one is another for one, another in zip(unet.parameters(), other.parameters(), strict=True))
    assert [parameter.data_ptr() for parameter in other.parameters()] == addresses  # captured graphs read them there


def test_weights_that_were_made_in_inference_mode_are_laid_out():
    with torch.inference_mode():
        unet, vae = denoiser("unet"), autoencoder()
        expected = run(unet, call_of("unet", 2))
        lay_channels_last(unet, vae)
        assert far(run(unet, call_of("unet", 2)), expected) < 1e-5
    assert far(run(unet, call_of("unet", 2)), expected) < 1e-5


def whole_convolutions(path, components):
    """Differences of whole convolutions."""
    generator = torch.Generator().manual_seed(7)
    tensors = {
        f"lora_unet_{name.replace('.', '_')}.diff": torch.randn(module.weight.shape, generator=generator) * 0.05
        for name, module in components["unet"].named_modules()
        if isinstance(module, nn.Conv2d) and "resnets" in name
    }
    return write(path, tensors)


@pytest.mark.parametrize("every_row", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_every_row_has_its_own_adapters_of_convolutions(every_row, fused, tmp_path):
    components = {"unet": denoiser("unet")}
    everything = {"wanted": lambda component, path, module: "time_emb" not in path}
    files = [
        diffusers_file(tmp_path / "a", components, rank=4, seed=1, **everything),
        kohya_file(tmp_path / "b", components, rank=6, alpha=3.0, seed=2, **everything),
        whole_convolutions(tmp_path / "c", components),
    ]
    a, b, c = files
    mixed = [[], [(a, 1.0)], [(b, 0.5)], [(a, 0.7), (b, -0.4)], [(c, 0.8), (a, 0.3)], []]
    batches = [
        (mixed, {}),
        (mixed[:4], {"ranks": 12}),
        ([[(a, 0.5)]] * 3, {}),
        ([[(a, 0.5)], [(a, 0.1)]], {}),
        ([[(c, 0.5)]] * 2, {}),
    ]
    plain, laid = denoiser("unet"), denoiser("unet")
    lay_channels_last(laid, autoencoder())
    if fused:
        fuse_projections(laid)
    both = [(model, Adapters({"unet": model}, PLENTY, every_row=every_row)) for model in (plain, laid)]
    for rows, options in batches:
        call = call_of("unet", len(rows))
        outputs = []
        for model, adapters in both:
            chosen = [tuple(adapters.load(file).at(scale) for file, scale in row) for row in rows]
            with adapters.applied(adapters.select("unet", chosen, **options)):
                outputs.append(run(model, call))
        assert far(outputs[1], outputs[0]) < 1e-5
        assert far(outputs[0], run(plain, call)) > 1e-3
    for _, adapters in both:
        adapters.close()
