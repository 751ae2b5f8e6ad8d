"""A denoiser of every family, so small that a call takes milliseconds, with random weights; and calls of so many rows, all different."""

from functools import partial

import torch
from diffusers import (
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)

TOKENS, WIDTH = 9, 20
SIDE = 8  # latent pixels


def unet(**options):
    return UNet2DConditionModel(
        **{
            "sample_size": SIDE,
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "attention_head_dim": 4,
            "cross_attention_dim": WIDTH,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            **options,
        }
    )


def sd3():
    return SD3Transformer2DModel(
        sample_size=SIDE,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=24,
        out_channels=4,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )


def flux():
    return FluxTransformer2DModel(
        in_channels=8,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=24,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=True,
    )


def qwen():
    return QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 2, 2),
    )


def z_image():
    return ZImageTransformer2DModel(
        dim=16, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH, axes_dims=[4, 2, 2]
    )


DENOISERS = {
    "unet": partial(unet, attention_head_dim=(2, 4), block_out_channels=(16, 16)),
    "unet with linear projections": partial(unet, use_linear_projection=True),
    "sd3": sd3,
    "flux": flux,
    "qwen": qwen,
    "z_image": z_image,
}
UNETS = ("unet", "unet with linear projections")
MASKED = (*UNETS, "qwen", "z_image")
"""Whose prompts may differ in length within a call."""


def denoiser(name, dtype=torch.float32):
    """Always with the same weights."""
    torch.manual_seed(0)
    return DENOISERS[name]().eval().requires_grad_(False).to(dtype)


def call_of(name, rows, mixed=False):
    """What the denoiser is called with. mixed: the rows' prompts differ in length."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape):
        return torch.randn(rows, *shape, generator=generator)

    timestep, texts = torch.rand(rows, generator=generator) * 900, noise(TOKENS, WIDTH)
    lengths = [TOKENS - 2 * row for row in range(rows)] if mixed else [TOKENS] * rows
    mask = torch.stack([torch.arange(TOKENS) < length for length in lengths]) if mixed else None
    if name in UNETS:
        return {
            "sample": noise(4, SIDE, SIDE),
            "timestep": timestep,
            "encoder_hidden_states": texts,
            "encoder_attention_mask": mask,
        }
    if name == "z_image":
        # It fills each text up to a multiple of 32 tokens.
        texts = [text.repeat(1 + 4 * (mixed and row % 2), 1) for row, text in enumerate(texts)]
        return {"x": list(noise(16, 1, SIDE, SIDE)), "t": timestep / 1000, "cap_feats": texts}
    common = {"timestep": timestep / 1000, "encoder_hidden_states": texts}
    if name == "sd3":
        return {**common, "timestep": timestep, "hidden_states": noise(4, SIDE, SIDE), "pooled_projections": noise(24)}
    if name == "qwen":
        more = {"encoder_hidden_states_mask": mask, "img_shapes": [[(1, 4, 4)]] * rows}
        return {**common, "hidden_states": noise(16, 16), **more}
    return {
        **common,
        "hidden_states": noise(16, 8),
        "guidance": torch.full((rows,), 3.5),
        "pooled_projections": noise(24),
        "txt_ids": torch.zeros(TOKENS, 3),
        "img_ids": torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)),
    }


@torch.inference_mode()
def run(model, call):
    """The output, on which nothing later writes."""
    outputs = model(**call, return_dict=False)[0]
    return torch.stack(outputs) if isinstance(outputs, list) else outputs.clone()


def far(one, other):
    """The largest difference, as a part of the largest value."""
    return float((one - other).abs().max() / other.abs().max())
