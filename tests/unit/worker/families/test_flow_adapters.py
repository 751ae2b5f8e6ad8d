"""Latents of models with transformers with different LoRAs in one batch, each as diffusers' pipeline draws it with its own."""

import copy

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from reference_calls import call

from collodion.wire.jobs import Lora
from collodion.worker.config import WorkerConfig
from collodion.worker.models import open_library

ATTENTION = ["to_q", "to_k", "to_v", "add_k_proj", "to_add_out"]
REST = [
    "norm1.linear",
    "ff.net.2",
    "proj_mlp",
    "timestep_embedder.linear_1",
    "x_embedder",
    "proj_out",
    "feed_forward.w2",
]
LORAS = {"attention": (4, ATTENTION), "rest": (2, REST)}
USES = {"none": (), "attention": (("attention", 0.8),), "both": (("attention", -0.5), ("rest", 1.0))}


def lora_layers(model, rank, modules):
    """The state of a random adapter, strong enough to show."""
    model = copy.deepcopy(model)
    model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=modules), "made")
    state = get_peft_model_state_dict(model, adapter_name="made")
    return {name: torch.randn_like(tensor) * 0.2 for name, tensor in state.items()}


@pytest.fixture
def fused(reference_of, tmp_path):
    """A family's reference pipeline with adapters of `tmp_path` fused, one at a time."""
    bare = {}

    def fuse(family, uses):
        pipeline = reference_of(family)
        _, transformer = bare.setdefault(family, (pipeline, pipeline.transformer))
        pipeline.transformer = copy.deepcopy(transformer)
        for name, scale in uses:
            pipeline.load_lora_weights(tmp_path, weight_name=f"{name}.safetensors", adapter_name=name)
            pipeline.fuse_lora(lora_scale=scale, adapter_names=[name])
            pipeline.unload_lora_weights()
        return pipeline

    yield fuse
    for pipeline, transformer in bare.values():
        pipeline.transformer = transformer


@pytest.mark.parametrize("family", ["flux_dev", "sd3", "qwen_image", "z_image"])
def test_a_latent_in_a_mixed_batch_is_the_one_with_its_adapters_fused(
    family, family_folder, fused, drive, spy, tmp_path
):
    torch.manual_seed(3)
    pipeline = fused(family, ())
    for name, lora in LORAS.items():
        layers = lora_layers(pipeline.transformer, *lora)
        pipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers, weight_name=f"{name}.safetensors")
    (tmp_path / "tiny").symlink_to(family_folder(family))
    library = open_library(WorkerConfig(models=(), models_dir=tmp_path, device="cpu", threads=1))
    library.shelf.look()
    spied = spy(library.shelf.load("tiny", lambda _: None))
    job = {"prompt": "a red circle", "negative_prompt": "", "width": 64, "height": 64, "sampler": "euler"}
    jobs = {
        name: {
            **job,
            "steps": 3 + number,
            "guidance_scale": 3.0,
            "seed": number,
            "loras": tuple(Lora(*u) for u in uses),
        }
        for number, (name, uses) in enumerate(USES.items())
    }
    drive(spied).draw(jobs)
    for name, uses in USES.items():
        bare, expected = (call(fused(family, some), jobs[name])[0] for some in ((), uses))
        assert float((spied.latents[jobs[name]["seed"]] - expected).abs().max() / expected.abs().max()) < 1e-4, name
        assert not uses or float((bare - expected).abs().max() / expected.abs().max()) > 0.01
