"""Configurations of models as they were published, for those who have no such model on the disk.

SD 1.5 and SDXL: what the worker itself knows of them for single files. The others as diffusers' own conversion scripts build them
(scripts/convert_sd3_to_diffusers.py, scripts/convert_flux_to_diffusers.py), with the text encoders of the published `model_index.json`:
CLIP ViT-L/14, OpenCLIP ViT-bigG/14 and T5 v1.1 XXL. `middle` is a piece of work for a CPU, between the embedded model and a real one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from adapters import MIDDLE

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A pipeline of diffusers: its class, its parts as (library, class), their configurations, and what its index says beside."""

    pipeline: str
    parts: Mapping[str, tuple[str, str]]
    configs: Mapping[str, Config]
    options: Mapping[str, Any] = field(default_factory=dict)


def _shipped(name: str) -> Recipe:
    text = (files("collodion.worker.registry") / "configs" / f"{name}.json").read_text(encoding="utf-8")
    said = json.loads(text)
    parts = {part: (library, kind) for part, (library, kind) in said["parts"].items()}
    return Recipe(said["pipeline"], parts, said["configs"], said["options"])


_CLIP_PARTS = {
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "vae": ("diffusers", "AutoencoderKL"),
}
_T5_TOKENIZER = {"model_max_length": 512, "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
_T5_XXL = {
    "architectures": ["T5EncoderModel"],
    "model_type": "t5",
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "dropout_rate": 0.1,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
}


def _vae_of_flows(scaling: float, shift: float) -> Config:
    """16 channels instead of 4, without the convolutions around the latent."""
    own = {"scaling_factor": scaling, "shift_factor": shift, "latent_channels": 16, "sample_size": 1024}
    return {**_shipped("sd1").configs["vae"], **own, "use_quant_conv": False, "use_post_quant_conv": False}


def _sd3() -> Recipe:
    sdxl = _shipped("sdxl").configs
    projected = {**sdxl["text_encoder"], "architectures": ["CLIPTextModelWithProjection"]}
    return Recipe(
        "StableDiffusion3Pipeline",
        {
            **_CLIP_PARTS,
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
            "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
            "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
            "text_encoder_3": ("transformers", "T5EncoderModel"),
            "tokenizer_2": ("transformers", "CLIPTokenizer"),
            "tokenizer_3": ("transformers", "T5TokenizerFast"),
            "transformer": ("diffusers", "SD3Transformer2DModel"),
        },
        {
            "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
            "text_encoder": projected,
            "text_encoder_2": sdxl["text_encoder_2"],
            "text_encoder_3": _T5_XXL,
            "tokenizer": sdxl["tokenizer"],
            "tokenizer_2": sdxl["tokenizer_2"],
            "tokenizer_3": _T5_TOKENIZER,
            "transformer": {
                "_class_name": "SD3Transformer2DModel",
                "sample_size": 128,
                "patch_size": 2,
                "in_channels": 16,
                "out_channels": 16,
                "num_layers": 24,
                "attention_head_dim": 64,
                "num_attention_heads": 24,
                "joint_attention_dim": 4096,
                "caption_projection_dim": 1536,
                "pooled_projection_dim": 2048,
                "pos_embed_max_size": 192,
            },
            "vae": _vae_of_flows(1.5305, 0.0609),
        },
    )


def _flux() -> Recipe:
    sd1 = _shipped("sd1").configs
    scheduler = {
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
        "shift": 3.0,
    }
    return Recipe(
        "FluxPipeline",
        {
            **_CLIP_PARTS,
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
            "text_encoder_2": ("transformers", "T5EncoderModel"),
            "tokenizer_2": ("transformers", "T5TokenizerFast"),
            "transformer": ("diffusers", "FluxTransformer2DModel"),
        },
        {
            "scheduler": {
                "_class_name": "FlowMatchEulerDiscreteScheduler",
                "num_train_timesteps": 1000,
                "use_dynamic_shifting": True,
                **scheduler,
            },
            "text_encoder": sd1["text_encoder"],
            "text_encoder_2": _T5_XXL,
            "tokenizer": sd1["tokenizer"],
            "tokenizer_2": _T5_TOKENIZER,
            "transformer": {
                "_class_name": "FluxTransformer2DModel",
                "patch_size": 1,
                "in_channels": 64,
                "num_layers": 19,
                "num_single_layers": 38,
                "attention_head_dim": 128,
                "num_attention_heads": 24,
                "joint_attention_dim": 4096,
                "pooled_projection_dim": 768,
                "guidance_embeds": True,
                "axes_dims_rope": [16, 56, 56],
            },
            "vae": _vae_of_flows(0.3611, 0.1159),
        },
    )


def _middle() -> Recipe:
    """128 px: 16x16 latents, 77 tokens, 43 million numbers in the UNet."""
    sd1 = _shipped("sd1")
    small = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 256, "intermediate_size": 768}
    return Recipe(
        sd1.pipeline,
        sd1.parts,
        {
            **sd1.configs,
            "unet": {**sd1.configs["unet"], "sample_size": 16, **MIDDLE},
            "text_encoder": {**sd1.configs["text_encoder"], **small, "projection_dim": 256},
            "vae": {
                **sd1.configs["vae"],
                "block_out_channels": [16, 32, 64, 64],
                "norm_num_groups": 8,
                "sample_size": 128,
            },
        },
        sd1.options,
    )


def recipe(name: str) -> Recipe:
    """Of a name in RECIPES."""
    return RECIPES[name]()


RECIPES = {
    "middle": _middle,
    "sd15": lambda: _shipped("sd1"),
    "sdxl": lambda: _shipped("sdxl"),
    "sd3": _sd3,
    "flux": _flux,
}
