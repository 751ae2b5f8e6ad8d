"""Latents with different LoRAs in one batch, each as diffusers' pipeline draws it with those fused; and prompts of any length."""

import diffusers
import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from reference_calls import call

from collodion.wire.jobs import Lora, PromptSyntax
from collodion.worker.config import WorkerConfig
from collodion.worker.models import open_library

RANKS = {"oil": 2, "ink": 8, "neon": 4}
UNET = ["to_q", "to_k", "to_v", "to_out.0", "conv1"]
TEXT = ["q_proj", "v_proj"]
USES = {
    "none": (),
    "oil": (Lora("oil", 0.8),),
    "ink": (Lora("ink", -0.5),),
    "both": (Lora("ink", 0.4), Lora("oil", 1.2)),
    "neon": (Lora("neon", 1.0),),
    "three": (Lora("ink", 0.3), Lora("neon", 0.3), Lora("oil", 0.3)),
}
JOBS = {
    name: {
        "sampler": ("euler_a", "dpmpp_2m", "ddim")[number % 3],
        "steps": 4,
        "guidance_scale": 1.0 if number % 2 else 5.0,
        "negative_prompt": "" if number % 2 else "blue",
        "prompt": "a red circle",
        "seed": 500 + number,
        "loras": uses,
    }
    for number, (name, uses) in enumerate(USES.items())
}


def make_lora(pipeline, rank, seed):
    """State dicts of the UNet and the text encoder, random and strong enough to show."""
    torch.manual_seed(seed)
    made = {}
    for part, modules in (("unet", UNET), ("text_encoder", TEXT)):
        model = getattr(pipeline, part)
        model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=modules), "made")
        state = get_peft_model_state_dict(model, adapter_name="made")
        made[part] = {name: torch.randn_like(tensor) * 0.15 for name, tensor in state.items()}
        model.delete_adapters("made") if part == "unet" else model.delete_adapter("made")
    return made


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory, family_folder):
    """A models directory with a model and three LoRAs for it."""
    root = tmp_path_factory.mktemp("library")
    (root / "tiny").symlink_to(family_folder("sd1"))
    loras = root / "loras"
    for seed, (name, rank) in enumerate(RANKS.items()):
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(family_folder("sd1"), safety_checker=None)
        made = make_lora(pipeline, rank, seed)
        pipeline.save_lora_weights(
            loras / name, unet_lora_layers=made["unet"], text_encoder_lora_layers=made["text_encoder"]
        )
        (loras / name / "pytorch_lora_weights.safetensors").rename(loras / f"{name}.safetensors")
        (loras / name).rmdir()
    return root


def load(models_dir, **settings):
    library = open_library(WorkerConfig(models=(), models_dir=models_dir, device="cpu", threads=1, **settings))
    contents = library.shelf.look()
    assert {adapter.name for adapter in contents.adapters} == RANKS.keys()
    assert [(one.name, one.fault) for one in contents.models] == [("tiny", "")]
    return library.shelf.load("tiny", lambda _: None)


@pytest.fixture(scope="module")
def model(models_dir):
    return load(models_dir)


@pytest.fixture(scope="module")
def drawn(model, drive, spy):
    spied = spy(model)
    return drive(spied, max_batch=16).draw(JOBS), spied.latents


@pytest.mark.parametrize("case", JOBS)
def test_a_latent_in_a_mixed_batch_is_the_one_with_its_adapters_fused(case, drawn, family_folder, models_dir):
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(family_folder("sd1"), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.own_config = dict(pipeline.scheduler.config)
    for lora in JOBS[case]["loras"]:
        pipeline.load_lora_weights(models_dir / "loras" / f"{lora.name}.safetensors", adapter_name=lora.name)
        pipeline.fuse_lora(lora_scale=lora.scale, adapter_names=[lora.name])
        pipeline.unload_lora_weights()
    pictures, latents = drawn
    latent, expected = call(pipeline, JOBS[case])
    error = float((latents[JOBS[case]["seed"]] - latent).abs().max() / latent.abs().max())
    assert error < 1e-4
    assert np.abs(pictures[case].astype(int) - np.round(expected * 255).astype(int)).max() <= 1


def test_adapters_show(drawn, model, drive, spy):
    same = {name: {**JOBS["none"], "loras": uses} for name, uses in USES.items() if name in ("none", "oil", "ink")}
    for name, fields in same.items():
        spied = spy(model)
        drive(spied).draw({name: fields})
        same[name] = spied.latents[fields["seed"]]
    for name in ("oil", "ink"):
        assert float((same[name] - same["none"]).abs().max() / same["none"].abs().max()) > 0.01


LONG = "a (large:1.4) red circle, " * 30


def test_a_reproducible_worker_draws_the_same_bits_beside_other_adapters_and_longer_prompts(models_dir, drive):
    bounds = {"max_batch": 4, "decode_batch": 2, "encode_batch": 2}
    model = load(models_dir, reproducible=True, **bounds)
    jobs = {
        "long": {"prompt": LONG, "prompt_syntax": PromptSyntax.WEIGHTED, "seed": 1},
        "oil": {"seed": 2, "loras": USES["oil"]},
        "none": {"seed": 3},
        "both": {"seed": 4, "loras": USES["both"], "guidance_scale": 1.0},
    }
    together = drive(model, **bounds).draw(jobs)
    for name, fields in jobs.items():
        assert (drive(model, **bounds).draw({name: fields})[name] == together[name]).all(), name


def test_prompts_of_different_lengths_share_a_batch_and_do_not_see_each_other(model, drive, spy):
    jobs = {
        "long": {"prompt": LONG, "prompt_syntax": PromptSyntax.WEIGHTED, "seed": 1},
        "short": {"prompt": "a [small] green (square)", "prompt_syntax": PromptSyntax.WEIGHTED, "seed": 2},
        "plain": {"prompt": "a blue circle", "seed": 3, "loras": USES["oil"]},
    }
    together = spy(model)
    drive(together, max_batch=4).draw(jobs)
    for name, fields in jobs.items():
        alone = spy(model)
        drive(alone).draw({name: fields})
        latent = together.latents[fields["seed"]]
        assert torch.allclose(alone.latents[fields["seed"]], latent, atol=1e-4 * float(latent.abs().max()))
