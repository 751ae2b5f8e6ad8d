"""What an adapter or an embedding is for, told by its keys and shapes."""

import re

from collodion.wire.jobs import AdapterKind
from collodion.worker.adapters.grammar import REFUSED
from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.registry.headers import Header

# What is no sum of low-rank products alone: LoHa, LoKr, whole differences, biases.
_WHOLE = re.compile(r"\.hada_w|\.lokr_w|\.diff(?:_b)?$|\.lora_(?:up|B)(?:\.[\w-]+)?\.bias$", re.MULTILINE)
# The grammar's, for all keys at once: a directory may hold ten million of them.
_REFUSED = tuple((re.compile(pattern.pattern, re.MULTILINE), what) for pattern, what in REFUSED)
# The words come before the pattern because looking for a word takes next to no time.
_BASES_BY_NAME = (
    (
        "qwen-image",
        ("img_mlp", "txt_mlp", "img_mod", "txt_mod"),
        r"transformer_blocks[._]\d+[._](?:img|txt)_(?:mlp|mod)",
    ),
    (
        "z-image",
        ("noise_refiner", "context_refiner", "feed_forward", "_attention_", ".attention."),
        r"(?:noise_refiner|context_refiner|layers)[._]\d+[._](?:attention|adaLN_modulation|feed_forward)",
    ),
    (
        "flux1",
        ("double_blocks", "single_blocks", "single_transformer_blocks"),
        r"(?:double_blocks|single_blocks|single_transformer_blocks)[._]\d+[._]",
    ),
    ("sd3", ("joint_blocks",), r"joint_blocks[._]\d+[._]"),
)
_CROSS_ATTENTION = re.compile(r"attn2[._](?:processor[._])?to_[kv].*(?:down|lora_A|hada_w1_b|lokr_w2_b)")
_BASES_BY_WIDTH = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
# FLUX.1 and Qwen-Image have blocks of the same names, both of width 3072: there it cannot be told.
_JOINT_ATTENTION = re.compile(
    r"transformer_blocks[._]\d+[._]attn[._]add_[qkv]_proj.*(?:down|lora_A|hada_w1_b|lokr_w2_b)"
)
_BASES_BY_JOINT_WIDTH = {1536: "sd3", 2432: "sd3"}
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
    """Its kind and base of a file that is a `Kind.ADAPTER`. Raises ModelUnusable."""
    names = "\n".join(header.tensors)
    endings = "\n".join({"." + ".".join(name.rsplit(".", 3)[1:]) for name in header.tensors})
    for pattern, what in _REFUSED:
        if pattern.search(names if pattern.pattern.startswith("^") else endings):
            raise ModelUnusable(f"{header.path} holds {what}, which is not supported")
    kind = AdapterKind.WHOLE if _WHOLE.search(endings) else AdapterKind.LOW_RANK
    return kind, _base(header, names)


def describe_embedding(header: Header) -> str:
    """The base of a file that is a `Kind.EMBEDDING`."""
    if {"clip_l", "clip_g"} <= header.tensors.keys() or {"text_encoders_0", "text_encoders_1"} <= header.tensors.keys():
        return "sdxl"
    width = next(iter(header.tensors.values())).shape[-1]
    return {768: "sd1", 1024: "sd2"}.get(width, "")


def _base(header: Header, names: str) -> str:
    for base, words, pattern in _BASES_BY_NAME:
        if any(word in names for word in words) and re.search(pattern, names):
            return base
    widths = ((_CROSS_ATTENTION, _BASES_BY_WIDTH), (_JOINT_ATTENTION, _BASES_BY_JOINT_WIDTH))
    for attention, bases in widths:
        for name, entry in header.tensors.items():
            if attention.search(name) and len(entry.shape) >= 2 and entry.shape[1] in bases:
                return bases[entry.shape[1]]
    if _SDXL_NAMES.search(names):
        return "sdxl"
    said = header.metadata.get("modelspec.architecture", "") or header.metadata.get("ss_base_model_version", "")
    return next((base for beginning, base in _SAID.items() if said.startswith(beginning)), "")
