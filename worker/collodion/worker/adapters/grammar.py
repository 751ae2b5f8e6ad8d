"""How the keys of adapter files are spelled: every key is the name of a module and what of its change the tensor is. No torch.

    lora_unet_mid_block_attentions_0_proj_in.lora_down.weight       kohya, LyCORIS (civitai)
    unet.mid_block.attentions.0.proj_in.lora_A.weight               diffusers, peft
    unet.mid_block.attentions.0.processor.to_q_lora.down.weight     diffusers before 0.20
    text_encoder.….q_proj.lora_linear_layer.down.weight             diffusers before 0.26
    double_blocks.0.processor.qkv_lora1.down.weight                 XLabs

The module's name is given back with all dots as underscores, because kohya's names have lost them; two modules of one model never
differ in that alone. So a name is understood by looking it up among the names of the model's modules, never by guessing at words.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class Part(StrEnum):
    """What a tensor is in its module's change; the values of LoHa's and LoKr's are their own spelling."""

    DOWN = "down"
    MID = "mid"
    UP = "up"
    UP_BIAS = "up_bias"
    ALPHA = "alpha"
    DIFF = "diff"
    DIFF_BIAS = "diff_b"
    HADA_W1_A = "hada_w1_a"
    HADA_W1_B = "hada_w1_b"
    HADA_W2_A = "hada_w2_a"
    HADA_W2_B = "hada_w2_b"
    HADA_T1 = "hada_t1"
    HADA_T2 = "hada_t2"
    LOKR_W1 = "lokr_w1"
    LOKR_W1_A = "lokr_w1_a"
    LOKR_W1_B = "lokr_w1_b"
    LOKR_W2 = "lokr_w2"
    LOKR_W2_A = "lokr_w2_a"
    LOKR_W2_B = "lokr_w2_b"
    LOKR_T2 = "lokr_t2"


LOW_RANK_PARTS = frozenset({Part.DOWN, Part.MID, Part.UP, Part.ALPHA})
"""What a module has whose change is a product of two matrices, and nothing else."""


class Spelled(NamedTuple):
    """A key, read. prefix: which of the model's components it speaks of, as the file spells that ("" if it does not)."""

    prefix: str
    module: str
    part: Part


_OWN_NAMES = "|".join(part.value for part in Part if part.value.startswith(("hada_", "lokr_", "diff")))
_SUFFIXES = tuple(
    (re.compile(pattern + "$"), part)
    for pattern, part in (
        (r"\.lora_(?:down|A)(?:\.[A-Za-z0-9_-]+)?\.weight", Part.DOWN),
        (r"\.lora_(?:up|B)(?:\.[A-Za-z0-9_-]+)?\.weight", Part.UP),
        (r"\.lora_(?:up|B)(?:\.[A-Za-z0-9_-]+)?\.bias", Part.UP_BIAS),
        (r"\.lora_mid\.weight", Part.MID),
        (r"(?:\.lora|\.lora_linear_layer|_lora)?\.down\.weight", Part.DOWN),
        (r"(?:\.lora|\.lora_linear_layer|_lora)?\.up\.weight", Part.UP),
        (r"(?:\.lora|_lora)?\.alpha", Part.ALPHA),
    )
)
_OWN_SUFFIX = re.compile(rf"\.({_OWN_NAMES})$")

REFUSED = (
    (
        re.compile(r"\.(?:dora_scale|lora_magnitude_vector(?:\..+)?)$"),
        "DoRA, which scales whole columns of the weights",
    ),
    (re.compile(r"\.(?:oft_\w+|boft_\w+)(?:\.weight)?$"), "OFT, which rotates the weights"),
    (re.compile(r"\.[ab][12]\.weight$"), "GLoRA"),
    (re.compile(r"\.on_input$"), "IA3"),
    (re.compile(r"\.[wb]_norm$"), "trained norms"),
    (re.compile(r"\.(?:set_weight|reshape_weight)$"), "weights of other shapes than the model's"),
    (re.compile(r"^bundle_emb\."), "an embedding beside the LoRA"),
    (re.compile(r"_norm\.scale$"), "a control LoRA, with norms of its own"),
)
"""What is recognised and cannot be applied, and its name for people."""

_PREFIXES = (
    "lora_unet_",
    "lora_transformer_",
    "lora_te1_",
    "lora_te2_",
    "lora_te3_",
    "lora_te_",
    "lycoris_",
    "unet.",
    "transformer.",
    "text_encoder.",
    "text_encoder_2.",
    "text_encoder_3.",
    "text_encoders.clip_l.transformer.",
    "text_encoders.clip_g.transformer.",
    "text_encoders.t5xxl.transformer.",
    "model.diffusion_model.",
    "diffusion_model.",
)
_OF_PEFT = "base_model.model."


def spelled(key: str) -> Spelled | None:
    """The key, read; None if it is not understood."""
    for pattern, part in _SUFFIXES:
        if found := pattern.search(key):
            return _spelled(key[: found.start()], part)
    if found := _OWN_SUFFIX.search(key):
        return _spelled(key[: found.start()], Part(found[1]))
    return None


def refused(keys: Iterable[str]) -> tuple[str, str] | None:
    """The first key that is recognised and cannot be applied, and the name of what it is; None if there is none."""
    for key in keys:
        for pattern, name in REFUSED:
            if pattern.search(key):
                return key, name
    return None


def flat(module: str) -> str:
    """A module's name as names are compared: underscores for dots."""
    return module.replace(".processor.", ".").replace(".", "_")


def _spelled(module: str, part: Part) -> Spelled:
    module = module.removeprefix(_OF_PEFT)
    prefix = next((prefix for prefix in _PREFIXES if module.startswith(prefix)), "")
    return Spelled(prefix, flat(module.removeprefix(prefix)), part)
