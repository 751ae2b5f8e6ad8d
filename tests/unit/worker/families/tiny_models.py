"""Models of the real architectures, so small that a step takes milliseconds, with random weights: each saved as a diffusers folder.

Their weights are made such that prompt, guidance and seed all show in the picture, and rounding does not grow from step to step.
"""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tiny_qwen_models import qwen_image, z_image
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

TOKENIZER = Path(__file__).parents[4] / "worker" / "collodion" / "worker" / "shapes" / "tokenizer"

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(TOKENIZER)


def clip(tokenizer: Any, width: int = 16, projected: bool = False) -> Any:
    """A CLIP text encoder of one layer."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=8,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)
    with torch.no_grad():
        encoder.get_input_embeddings().weight.mul_(50)
    return encoder


def unet(**options: Any) -> UNet2DConditionModel:
    """8x8 latents."""
    made = UNet2DConditionModel(
        **{
            "sample_size": 8,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (8, 8),
            "norm_num_groups": 4,
            "layers_per_block": 1,
            "attention_head_dim": 2,
            "cross_attention_dim": 16,
            **options,
        }
    )
    with torch.no_grad():
        made.conv_out.weight.mul_(2)
        for name, weight in made.named_parameters():
            if "attn2.to_" in name:
                weight.mul_(3)
    return made


def autoencoder(**options: Any) -> AutoencoderKL:
    """64x64 pictures to 8x8 latents."""
    return AutoencoderKL(
        **{
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "block_out_channels": (4, 4, 4, 4),
            "norm_num_groups": 2,
            "layers_per_block": 1,
            "sample_size": 64,
            **options,
        }
    )


FLOW_VAE = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}


def vivid(transformer: Any) -> Any:
    """A transformer of SD3 or FLUX that heeds its prompt."""
    with torch.no_grad():
        transformer.context_embedder.weight.mul_(8)
        transformer.time_text_embed.text_embedder.linear_1.weight.mul_(4)
        transformer.proj_out.weight.mul_(2)
    return transformer


def stable_diffusion(scheduler: Any, **unet_options: Any) -> StableDiffusionPipeline:
    tokenizer = clip_tokenizer()
    parts = autoencoder(), clip(tokenizer), tokenizer, unet(**unet_options), scheduler
    return StableDiffusionPipeline(*parts, None, None, requires_safety_checker=False)


def sd1() -> Any:
    return stable_diffusion(DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **BETAS))


def sd2_v() -> Any:
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction", **BETAS)
    return stable_diffusion(scheduler, use_linear_projection=True)


def sd1_inpainting() -> Any:
    return stable_diffusion(
        DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **BETAS), in_channels=9, out_channels=4
    )


def stable_diffusion_xl(scheduler: Any, **options: Any) -> StableDiffusionXLPipeline:
    tokenizer = clip_tokenizer()
    denoiser = unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=4 * 6 + 8,
        cross_attention_dim=16 + 12,
        use_linear_projection=True,
        **options,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13025),
        text_encoder=clip(tokenizer),
        text_encoder_2=clip(tokenizer, width=12, projected=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=denoiser,
        scheduler=scheduler,
        add_watermarker=False,
    )


def sdxl() -> Any:
    return stable_diffusion_xl(EulerDiscreteScheduler(**BETAS))


def sdxl_turbo() -> Any:
    return stable_diffusion_xl(EulerAncestralDiscreteScheduler(timestep_spacing="trailing", **BETAS))


def t5_tokenizer() -> Any:
    """Knows the words of the tests, and letters for all others."""
    words = "a red circle two small green squares blue yellow triangle and many more"
    pieces = [("▁" + word, -1.0) for word in words.split()] + [
        (letter, -9.0) for letter in "▁,." + string.ascii_lowercase
    ]
    return T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *pieces], extra_ids=0)


def t5(tokenizer: Any) -> T5EncoderModel:
    """32 wide: at least as wide as the CLIP text encoders beside it."""
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", **sizes))


def stable_diffusion_3(*, with_t5: bool = True, by_size: bool = False, **options: Any) -> StableDiffusion3Pipeline:
    tokenizer, tokenizer_3 = clip_tokenizer(), t5_tokenizer() if with_t5 else None
    transformer = SD3Transformer2DModel(
        sample_size=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=8 + 8,
        pos_embed_max_size=6,
        **options,
    )
    return StableDiffusion3Pipeline(
        transformer=vivid(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=by_size),
        vae=autoencoder(**FLOW_VAE, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=clip(tokenizer, projected=True),
        tokenizer=tokenizer,
        text_encoder_2=clip(tokenizer, width=12, projected=True),
        tokenizer_2=tokenizer,
        text_encoder_3=t5(tokenizer_3) if tokenizer_3 is not None else None,
        tokenizer_3=tokenizer_3,
    )


def sd3() -> Any:
    """Medium, as it is often kept: without T5."""
    return stable_diffusion_3(with_t5=False)


def sd35() -> Any:
    return stable_diffusion_3(qk_norm="rms_norm", dual_attention_layers=(0,))


def sd35_by_size() -> Any:
    """With a schedule that depends on the picture's size, which its pipeline can do, too."""
    return stable_diffusion_3(by_size=True, qk_norm="rms_norm")


def flux(**scheduler: Any) -> FluxPipeline:
    tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=bool(scheduler.get("use_dynamic_shifting")),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**scheduler),
        vae=autoencoder(**FLOW_VAE, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=clip(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=t5(tokenizer_2),
        tokenizer_2=tokenizer_2,
        transformer=vivid(transformer),
    )


def flux_dev() -> Any:
    return flux(shift=3.0, use_dynamic_shifting=True)


def flux_schnell() -> Any:
    return flux()


def z_image_vae() -> AutoencoderKL:
    return autoencoder(**FLOW_VAE, scaling_factor=0.3611, shift_factor=0.1159)


MODELS: dict[str, Callable[[], Any]] = {
    "sd1": sd1,
    "sd2_v": sd2_v,
    "sd1_inpainting": sd1_inpainting,
    "sdxl": sdxl,
    "sdxl_turbo": sdxl_turbo,
    "sd3": sd3,
    "sd35": sd35,
    "sd35_by_size": sd35_by_size,
    "flux_dev": flux_dev,
    "flux_schnell": flux_schnell,
    "qwen_image": qwen_image,
    "z_image": lambda: z_image(z_image_vae(), shift=6.0),
    "z_image_turbo": lambda: z_image(z_image_vae(), shift=3.0),
}


def save(name: str, folder: Path) -> Path:
    """A model, always with the same weights, as a diffusers folder."""
    torch.manual_seed(0)
    pipeline = MODELS[name]()
    pipeline.save_pretrained(folder)
    return folder
