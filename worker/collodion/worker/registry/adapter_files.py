"""What an adapter or an embedding is for, told by its keys and shapes."""

import re

from collodion.wire.jobs import AdapterKind
from collodion.worker.registry.headers import Header

# Weights that are no sum of low-rank products: LoHa, LoKr, OFT, whole differences, (IA)3, DoRA, GLoRA.
_WHOLE = re.compile(
    r"\.hada_w|\.lokr_w|\.oft_|\.diff(?:_b)?$|\.on_input$|\.dora_scale$|lora_magnitude_vector|\.a1\.weight$",
    re.MULTILINE,
)
_BASES_BY_NAME = (
    ("qwen-image", re.compile(r"transformer_blocks[._]\d+[._](?:img_mlp|txt_mlp|img_mod|txt_mod)")),
    (
        "z-image",
        re.compile(r"(?:noise_refiner|context_refiner|layers)[._]\d+[._](?:attention|adaLN_modulation|feed_forward)"),
    ),
    ("flux1", re.compile(r"(?:double_blocks|single_blocks|single_transformer_blocks)[._]\d+[._]")),
    ("sd3", re.compile(r"joint_blocks[._]\d+[._]|transformer_blocks[._]\d+[._]attn[._]add_[kqv]_proj")),
)
_CROSS_ATTENTION = re.compile(
    r"attn2[._](?:to_[kv]|processor[._]to_[kv]_lora).*?(?:lora_down|lora_A|lora[._]down|_lora\.down|hada_w1_b|lokr_w2_b)"
)
_BASES_BY_WIDTH = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_SDXL_NAMES = re.compile(
    r"lora_te2_|text_encoder_2\.|_(?:input|output)_blocks_\d+_\d+_transformer_blocks_[1-9]|attentions[._]\d+[._]transformer_blocks[._][1-9]"
)
_SAID = {
    "sd_1": "sd1",
    "sd_v1": "sd1",
    "sd_v2": "sd2",
    "sd_2": "sd2",
    "sdxl": "sdxl",
    "sd3": "sd3",
    "flux": "flux1",
    "stable-diffusion-v1": "sd1",
    "stable-diffusion-v2": "sd2",
    "stable-diffusion-xl": "sdxl",
    "stable-diffusion-3": "sd3",
}


def describe_adapter(header: Header) -> tuple[AdapterKind, str]:
    """Its kind and base of a file that is a `Kind.ADAPTER`."""
    names = "\n".join(header.tensors)
    kind = AdapterKind.WHOLE if _WHOLE.search(names) else AdapterKind.LOW_RANK
    return kind, _base(header, names)


def describe_embedding(header: Header) -> str:
    """The base of a file that is a `Kind.EMBEDDING`."""
    if {"clip_l", "clip_g"} <= header.tensors.keys():
        return "sdxl"
    width = next(iter(header.tensors.values())).shape[-1]
    return {768: "sd1", 1024: "sd2"}.get(width, "")


def _base(header: Header, names: str) -> str:
    for base, telling in _BASES_BY_NAME:
        if telling.search(names):
            return base
    for name, entry in header.tensors.items():
        if _CROSS_ATTENTION.search(name) and len(entry.shape) >= 2 and entry.shape[1] in _BASES_BY_WIDTH:
            return _BASES_BY_WIDTH[entry.shape[1]]
    if _SDXL_NAMES.search(names):
        return "sdxl"
    said = header.metadata.get("modelspec.architecture", "") or header.metadata.get("ss_base_model_version", "")
    return next((base for beginning, base in _SAID.items() if said.startswith(beginning)), "")
