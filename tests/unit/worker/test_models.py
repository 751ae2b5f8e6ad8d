"""From the `models` setting to pipelines: what loads, what is refused with a sentence, what is told to clients."""

import json
import shutil

import numpy as np
import pytest
import torch

from collodion.process.config import ConfigError
from collodion.wire.jobs import Parameters, Reason
from collodion.worker.config import WorkerConfig
from collodion.worker.families import model_info
from collodion.worker.families.rgb_map import fit_rgb_map, to_rgb
from collodion.worker.families.vae import Vae
from collodion.worker.models import load_models
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.pipeline import LatentRefused
from collodion.worker.sampling.catalog import SAMPLERS


def load(folder, **settings):
    return load_models(WorkerConfig(models=(f"mine={folder}",), device="cpu", threads=1, **settings))[1]["mine"]


@pytest.fixture
def broken(tiny_folder, tmp_path):
    """A copy of the tiny model that a test may break."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_model_is_described_as_its_folder_says(tiny):
    info = tiny.info
    assert (info.family, info.dtype, info.native_width, info.native_height) == ("stable-diffusion", "float32", 64, 64)
    assert (info.min_size, info.max_size, info.size_multiple) == (16, 128, 8)
    assert info.samplers == tuple(SAMPLERS)
    assert info.guided_rows == 2
    assert info.max_prompt_tokens == tiny._architecture.pipeline.tokenizer.model_max_length - 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_makes_as_many_model_calls_as_its_line_says(tiny, sampler):
    for steps in (2, 7, 20):
        job = Parameters("tiny", "x", "", 64, 64, steps, sampler, 1.0, 1, 1)
        assert tiny.info.evaluations_of(job) == len(tiny.prepare(job).course) - 1


def test_only_samplers_that_do_not_make_one_call_a_step_are_told_of(tiny):
    assert tiny.info.evaluations == {"heun": (2, -1), "kdpm2": (2, -1), "pndm": (1, 1)}


def test_a_sampler_whose_calls_are_in_no_proportion_to_its_steps_is_refused_aloud(broken, monkeypatch):
    class Odd(model_info.Walk):
        def __len__(self):
            return super().__len__() + (self.name == "heun" and self.steps == 10)

    monkeypatch.setattr(model_info, "Walk", Odd)
    monkeypatch.setattr(model_info, "_samplers", model_info._samplers.__wrapped__)
    info = load(broken).info
    assert [(refusal.name, "no proportion" in refusal.reason) for refusal in info.refused_samplers] == [("heun", True)]
    assert "heun" not in (*info.samplers, *info.evaluations)


def test_samplers_that_the_models_schedule_does_not_allow_are_refused_with_reason(broken):
    edit(broken / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True, prediction_type="v_prediction")
    model = load(broken)
    refused = {refusal.name: refusal.reason for refusal in model.info.refused_samplers}
    assert {"heun", "lms", "deis", "pndm"} <= refused.keys()
    assert not refused.keys() & set(model.info.samplers)
    with pytest.raises(LatentRefused) as refusal:
        model.prepare(Parameters("mine", "x", "", 64, 64, 4, "heun", 1.0, 1, 1))
    assert refusal.value.failure.reason is Reason.SAMPLER_REFUSED
    assert refusal.value.failure.message == refused["heun"]


def test_a_folder_may_bring_its_own_defaults(broken):
    own = {"default_steps": 9, "default_sampler": "ddim", "default_guidance_scale": 3, "license": "MIT"}
    (broken / "collodion.json").write_text(json.dumps(own))
    info = load(broken).info
    assert {key: getattr(info, key) for key in own} == own


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "collodion.json"),
        ("[1]", "not a JSON object"),
        ('{"steps": 1}', "no setting 'steps'"),
        ('{"default_steps": "many"}', "default_steps = 'many'"),
    ],
)
def test_defaults_that_make_no_sense_are_refused(broken, text, sentence):
    (broken / "collodion.json").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        load(broken)


@pytest.mark.parametrize("size", ["7x7", "100x64", "64x4096"])
def test_sizes_that_the_model_does_not_draw_are_not_made_ready_but_refused(tiny_folder, size):
    sides = "its sides are multiples of 8 from 16 to 128"
    with pytest.raises(ConfigError, match=f"the model mine: optimize: sizes has {size}, but {sides}"):
        load(tiny_folder, optimize=(f"sizes=64x64+{size}",))


def test_what_is_asked_for_a_model_that_is_not_there_is_refused(tiny_folder, tmp_path):
    with pytest.raises(ConfigError, match="'yours:compile=regional' is for none of the models, which are mine"):
        load(tiny_folder, optimize=("yours:compile=regional",))
    load(tiny_folder, optimize=("yours:compile=regional",), models_dir=tmp_path)  # there it may come


def test_a_denoiser_that_cannot_be_cut_has_no_step_cache_and_is_refused_if_one_is_asked_for(tiny_folder, monkeypatch):
    assert load(tiny_folder).info.step_cache
    assert not load(tiny_folder, optimize=("step_cache=off",)).info.step_cache
    assert [one.value for one in load(tiny_folder).optimizations if one.name == "step_cache"] == ["on"]

    def uncut(_):
        raise Unsuitable("its UNet is of one piece")

    monkeypatch.setattr("collodion.worker.families.unets.UnetParts", uncut)
    whole = load(tiny_folder)
    assert not whole.info.step_cache
    assert "step_cache" not in {one.name for one in whole.optimizations}
    with pytest.raises(ConfigError, match="the model mine: step_cache=on: its UNet is of one piece"):
        load(tiny_folder, optimize=("step_cache=on",))


def test_what_is_asked_of_models_is_read_for_simulated_ones_too():
    with pytest.raises(ConfigError, match="there is no 'turbo'"):
        load_models(WorkerConfig(models=("simulated",), optimize=("turbo=on",)))


def test_a_model_that_does_not_fit_the_memory_at_the_start_is_refused(tiny_folder, monkeypatch):
    def full(*_):
        raise MemoryError("CUDA out of memory")

    monkeypatch.setattr("collodion.worker.families.loading.Optimized", full)
    with pytest.raises(ConfigError, match="model 'mine' does not fit the device's memory"):
        load(tiny_folder)


def remove_weights(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


def pickle_weights(folder):
    remove_weights(folder)
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")


def cut_weights(folder):
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


BREAKS = {
    "nothing there": (lambda folder: shutil.rmtree(folder), "cannot be read"),
    "no index": (lambda folder: (folder / "model_index.json").unlink(), "not a diffusers folder"),
    "index is no JSON": (lambda folder: (folder / "model_index.json").write_text("{"), "is not JSON"),
    "other family": (
        lambda folder: edit(folder / "model_index.json", _class_name="ShapEPipeline"),
        "is a ShapEPipeline",
    ),
    "pipeline of no word": (
        lambda folder: edit(folder / "model_index.json", _class_name=["x"]),
        "which this version does not run",
    ),
    "not what it says": (
        lambda folder: edit(folder / "model_index.json", _class_name="FluxPipeline"),
        "lack 'transformer'",
    ),
    "code of its own": (lambda folder: edit(folder / "model_index.json", unet=["my_unet", "Mine"]), "code of its own"),
    "no weights": (remove_weights, "lacks its weights"),
    "weights only as pickle": (pickle_weights, "collodion convert"),
    "weights cut off": (cut_weights, "is not complete"),
    "inpainting": (lambda folder: edit(folder / "unet" / "config.json", in_channels=9), "conv_in.weight has shape"),
    "depth": (lambda folder: edit(folder / "unet" / "config.json", in_channels=8), "wants 8 channels"),
    "distilled": (lambda folder: edit(folder / "unet" / "config.json", time_cond_proj_dim=8), "time_cond_proj_dim"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_folder_is_refused_with_its_name(broken, what):
    breaking, sentence = BREAKS[what]
    breaking(broken)
    with pytest.raises(ConfigError, match=sentence) as error:
        load(broken)
    assert str(broken) in str(error.value)


@pytest.mark.parametrize("device", ["gpu", "cuda:63", "mps", "cuda:x"])
def test_a_device_that_is_not_there_is_refused(tiny_folder, device):
    with pytest.raises(ConfigError, match="device"):
        load_models(WorkerConfig(models=(f"mine={tiny_folder}",), device=device))


def test_simulated_models_go_beside_real_ones(tiny_folder):
    config = WorkerConfig(models=("simulated", f"mine={tiny_folder}"), device="cpu", threads=1)
    device, pipelines = load_models(config)
    assert (device, list(pipelines)) == ("cpu", ["simulated", "mine"])


def test_the_rgb_map_finds_a_vae_that_is_a_linear_map_of_colours():
    mixing = torch.tensor([[0.5, -0.2, 0.1], [0.0, 0.7, 0.3], [-0.4, 0.1, 0.6], [0.2, 0.2, 0.2]])

    class Linear:
        device, dtype, config = "cpu", torch.float32, {"scaling_factor": 0.5}

        def encode(self, pictures):
            small = torch.nn.functional.avg_pool2d(pictures, 8)
            latents = torch.einsum("bchw,kc->bkhw", small, mixing) + 0.3
            distribution = type("Distribution", (), {"mean": latents, "std": latents * 0})()
            return type("Encoded", (), {"latent_dist": distribution})()

    colours = torch.rand((3, 4, 4), generator=torch.Generator().manual_seed(1))
    latent = (torch.einsum("chw,kc->khw", colours * 2 - 1, mixing) + 0.3) * 0.5
    picture = to_rgb(latent, fit_rgb_map(Vae(Linear(), None, 8)))
    expected = (colours * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(picture.astype(int) - expected).max() <= 2


def test_a_preview_is_a_small_picture_of_the_latent(tiny, drive):
    plan = tiny.prepare(Parameters("tiny", "x", "", 64, 64, 4, "euler", 1.0, 1, 1))
    state = tiny.begin(plan, tiny.encode([plan]).conditioning[0], 1)
    picture = tiny.preview(tiny.snapshot(state))
    assert picture.shape == (8, 8, 3)
    assert picture.dtype == np.uint8
