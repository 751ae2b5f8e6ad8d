"""Tiny models whose text encoders are language models: Qwen-Image and Z-Image."""

import json
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen3Config, Qwen3Model

QWEN_IMAGE_PROMPT = (
    "system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the objects and"
    " background:\nuser\nassistant\n"
)
QWEN_3_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WIDTH = 16
LANGUAGE_MODEL = {
    "hidden_size": WIDTH,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
}


def qwen_tokenizer(**options: Any) -> Qwen2Tokenizer:
    """Knows the words of Qwen-Image's template, which then has as many tokens as it really has; all else is byte by byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False)
    trained = Tokenizer(BPE())
    trained.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    trained.train_from_iterator([QWEN_IMAGE_PROMPT], trainer)
    model = json.loads(trained.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=131072,
        **options,
    )


def qwen_image() -> QwenImagePipeline:
    tokenizer = qwen_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    config = Qwen2_5_VLConfig(
        text_config={**LANGUAGE_MODEL, "vocab_size": len(tokenizer), "rope_parameters": rope},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
        },
    )
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 2, 2),
    )
    with torch.no_grad():
        transformer.txt_in.weight.mul_(4)
    vae = AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[-0.5, 0.25, 0.0, 0.5],
        latents_std=[2.0, 1.5, 1.0, 2.5],
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02, use_dynamic_shifting=True
    )
    return QwenImagePipeline(scheduler, vae, Qwen2_5_VLForConditionalGeneration(config), tokenizer, transformer)


def z_image(vae: Any, shift: float) -> ZImagePipeline:
    """vae: of 16 channels."""
    tokenizer = qwen_tokenizer(chat_template=QWEN_3_TEMPLATE)
    transformer = ZImageTransformer2DModel(
        dim=16,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 2, 2],
    )
    with torch.no_grad():
        transformer.x_pad_token.normal_()  # they are learned, and only begin as zeros
        transformer.cap_pad_token.normal_()
    text_encoder = Qwen3Model(Qwen3Config(**LANGUAGE_MODEL, vocab_size=len(tokenizer), head_dim=8))
    return ZImagePipeline(FlowMatchEulerDiscreteScheduler(shift=shift), vae, text_encoder, tokenizer, transformer)
