"""What a safetensors file is, told by its keys and the shapes of some."""

import re
from enum import Enum

from collodion.worker.registry.headers import Header

UNET = "model.diffusion_model."
VAE_PREFIXES = ("first_stage_model.", "vae.", "")

_ADAPTER = re.compile(
    r"lora_(?:up|down|mid|[AB])\b|[._]lora\.|lora_magnitude_vector|\.hada_w|\.lokr_w|\.oft_|\.diff(?:_b)?$|\.dora_scale$|\.on_input$|\.a1\.weight$",
    re.MULTILINE,
)
EMBEDDING_KEYS = frozenset({"emb_params", "clip_l", "clip_g", "t5xxl", "text_encoders_0", "text_encoders_1"})
_WIDEST = 8192  # of the text encoders that words are taught to
_MOST_VECTORS = 1024  # of an embedding


class Kind(Enum):
    """What a file holds; the value says it to a person."""

    CHECKPOINT = "a Stable Diffusion checkpoint"
    ADAPTER = "an adapter"
    EMBEDDING = "an embedding"
    VAE = "a VAE"
    CONTROL = "a ControlNet or another adapter that is guided by pictures"
    FLUX = "a FLUX checkpoint in one file"
    SD3 = "a Stable Diffusion 3 checkpoint in one file"
    TRANSFORMER = "the denoiser of a model alone, in one file"
    UNET = "a UNet alone"
    TEXT_ENCODER = "a text encoder alone"
    UPSCALER = "an upscaler"
    UNKNOWN = "nothing that this version knows"


_TELLING: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    (
        Kind.CONTROL,
        (
            "control_model.",
            "controlnet_",
            "controlnet_cond_embedding.",
            "input_hint_block.",
            "image_proj.",
            "ip_adapter.",
        ),
    ),
    (Kind.FLUX, (UNET + "double_blocks.", "double_blocks.")),
    (Kind.SD3, (UNET + "joint_blocks.", "joint_blocks.")),
    (Kind.TRANSFORMER, (UNET, "transformer_blocks.", "single_transformer_blocks.", "noise_refiner.", "net.blocks.")),
    (Kind.UNET, ("input_blocks.0.0.weight", "down_blocks.0.", "time_embedding.linear_1.weight")),
    (
        Kind.TEXT_ENCODER,
        (
            "text_model.",
            "text_encoder",
            "encoder.block.0.",
            "shared.weight",
            "model.layers.",
            "transformer.resblocks.",
            "vision_model.",
        ),
    ),
    (Kind.UPSCALER, ("conv_first.", "model.0.weight", "body.0.", "layers.0.residual_group.")),
)


def kind_of(header: Header) -> Kind:
    """What the file is."""
    names = header.tensors
    if _ADAPTER.search("\n".join(names)):
        return Kind.ADAPTER
    if UNET + "input_blocks.0.0.weight" in names:
        return Kind.CHECKPOINT
    if vae_prefix(header) is not None and not any(name.startswith(UNET) for name in names):
        return Kind.VAE
    if _is_embedding(header):
        return Kind.EMBEDDING
    for kind, beginnings in _TELLING:
        if any(name.startswith(beginnings) for name in names):
            return kind
    return Kind.UNKNOWN


def vae_prefix(header: Header) -> str | None:
    """Before the names of its VAE's tensors; None if it has none."""
    return next((prefix for prefix in VAE_PREFIXES if prefix + "decoder.conv_in.weight" in header.tensors), None)


def _is_embedding(header: Header) -> bool:
    """Vectors under a name of their own, or, as diffusers saves them, under the word that they are to be."""
    names = header.tensors.keys()
    if not names or not (
        names <= EMBEDDING_KEYS or (len(names) == 1 and not min(names).endswith((".weight", ".bias")))
    ):
        return False
    return all(_is_vectors(entry.shape) for entry in header.tensors.values())


def _is_vectors(shape: tuple[int, ...]) -> bool:
    return 0 < len(shape) <= 2 and shape[-1] <= _WIDEST and (len(shape) == 1 or shape[0] <= _MOST_VECTORS)
