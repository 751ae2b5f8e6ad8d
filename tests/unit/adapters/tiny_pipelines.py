"""Tiny models of the real architectures with random weights, alone and in diffusers' own pipelines."""

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

TOKENS = 8


def _text_config(**more):
    return CLIPTextConfig(
        vocab_size=100,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=20,
        bos_token_id=0,
        eos_token_id=99,
        pad_token_id=1,
        **more,
    )


def _unet(**more):
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=2,
        norm_num_groups=8,
        attention_head_dim=4,
        **more,
    )


def sd1():
    """Components by name."""
    torch.manual_seed(1)
    return {
        "unet": _unet(
            cross_attention_dim=24,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ).eval(),
        "text_encoder": CLIPTextModel(_text_config()).eval(),
    }


def sdxl():
    torch.manual_seed(2)
    return {
        "unet": _unet(
            cross_attention_dim=44,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=44,
        ).eval(),
        "text_encoder": CLIPTextModel(_text_config()).eval(),
        "text_encoder_2": CLIPTextModelWithProjection(_text_config()).eval(),
    }


def flux():
    torch.manual_seed(3)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=8,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=20,
        pooled_projection_dim=24,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=True,
    )
    return {"transformer": transformer.eval(), "text_encoder": CLIPTextModel(_text_config()).eval()}


def sd3():
    torch.manual_seed(4)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=20,
        caption_projection_dim=16,
        pooled_projection_dim=24,
        out_channels=4,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return {"transformer": transformer.eval()}


MADE = {"sd1": sd1, "sdxl": sdxl, "flux": flux, "sd3": sd3}


def pipeline(name, components):
    """Diffusers' own, of these components and nothing else."""
    nothing = dict.fromkeys(("vae", "tokenizer", "scheduler"))
    if name == "sd1":
        return diffusers.StableDiffusionPipeline(
            **nothing, **components, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    if name == "sdxl":
        return diffusers.StableDiffusionXLPipeline(**nothing, **components, tokenizer_2=None)
    if name == "flux":
        return diffusers.FluxPipeline(**nothing, **components, text_encoder_2=None, tokenizer_2=None)
    spare = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer_2", "tokenizer_3")
    return diffusers.StableDiffusion3Pipeline(**nothing, **components, **dict.fromkeys(spare))


def inputs(name, rows, seed=0):
    """Keyword arguments of the denoiser for so many rows, all different."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(rows, *shape, generator=generator)

    timestep = torch.rand(rows, generator=generator) * 900
    if name == "flux":
        return {
            "hidden_states": noise(16, 8),
            "timestep": timestep / 1000,
            "guidance": torch.full((rows,), 3.5),
            "encoder_hidden_states": noise(TOKENS, 20),
            "pooled_projections": noise(24),
            "txt_ids": torch.zeros(TOKENS, 3),
            "img_ids": torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)),
        }
    if name == "sd3":
        return {
            "hidden_states": noise(4, 8, 8),
            "timestep": timestep,
            "encoder_hidden_states": noise(TOKENS, 20),
            "pooled_projections": noise(24),
        }
    call = {"sample": noise(4, 8, 8), "timestep": timestep}
    if name == "sd1":
        return call | {"encoder_hidden_states": noise(TOKENS, 24)}
    added = {"text_embeds": noise(20), "time_ids": torch.randint(0, 64, (rows, 6), generator=generator).float()}
    return call | {"encoder_hidden_states": noise(TOKENS, 44), "added_cond_kwargs": added}


def row_of(call, row):
    """The arguments of one row alone."""
    shared = ("txt_ids", "img_ids")
    return {
        name: row_of(value, row) if isinstance(value, dict) else value if name in shared else value[row : row + 1]
        for name, value in call.items()
    }


@torch.inference_mode()
def denoise(components, call):
    model = components.get("unet") or components["transformer"]
    return model(**call, return_dict=False)[0].clone()


def prompts(rows, seed=0):
    """Token ids (rows, TOKENS), each with its end."""
    ids = torch.randint(2, 98, (rows, TOKENS), generator=torch.Generator().manual_seed(seed))
    ids[:, 0], ids[:, -1] = 0, 99
    return ids


@torch.inference_mode()
def encode(components, ids, component="text_encoder"):
    """What pipelines read: the last hidden state but one, and the pooled output."""
    encoded = components[component](ids, output_hidden_states=True)
    pooled = encoded.text_embeds if component == "text_encoder_2" else encoded.pooler_output
    return torch.cat(
        [encoded.hidden_states[-2], encoded.last_hidden_state, pooled[:, None, :24].expand(-1, -1, -1)][:2], 1
    )
