"""Adapter files in the layouts that people have, with random numbers in them."""

import torch
from safetensors.torch import save_file
from torch import nn

PREFIXES = {"unet": "lora_unet", "transformer": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}


def modules(components, wanted=lambda component, path, module: True):
    """(component, path, module) of everything that an adapter may change."""
    for component, model in components.items():
        for path, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and wanted(component, path, module):
                yield component, path, module


def attention_only(component, path, module):
    return isinstance(module, nn.Linear) and ("attn" in path or "mlp" in path)


def linear_only(component, path, module):
    return isinstance(module, nn.Linear)


def factors(module, rank, generator):
    """down, up as they would be for this module, of a strength that shows."""
    weight = module.weight
    rank = min(rank, *weight.shape[:2])
    down = torch.randn(rank, *weight.shape[1:], generator=generator) / weight[0].numel() ** 0.5
    up = torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=generator) / rank**0.5
    return down, up * 0.7


def write(path, tensors, metadata=None):
    save_file(
        {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, path, metadata
    )
    return path


def diffusers_file(path, components, rank=4, seed=0, wanted=attention_only):
    """As diffusers saves it today."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for component, name, module in modules(components, wanted):
        if component.startswith("text") and not name.startswith("text_"):
            name = "text_model." + name  # as transformers before 5 called it, and files do
        down, up = factors(module, rank, generator)
        tensors[f"{component}.{name}.lora_A.weight"] = down
        tensors[f"{component}.{name}.lora_B.weight"] = up
    return write(path, tensors)


def kohya_name(component, path, numbered=False):
    if component.startswith("text") and not path.startswith("text_"):
        path = "text_model." + path
    prefix = "lora_te1" if numbered and component == "text_encoder" else PREFIXES[component]
    return f"{prefix}_{path.replace('.', '_')}"


def kohya_file(
    path, components, rank=4, alpha=2.0, seed=0, wanted=attention_only, named=kohya_name, dtype=torch.float32
):
    """As kohya's scripts save it."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for component, name, module in modules(components, wanted):
        down, up = factors(module, rank, generator)
        base = named(component, name)
        tensors[f"{base}.lora_down.weight"] = down.to(dtype)
        tensors[f"{base}.lora_up.weight"] = up.to(dtype)
        if alpha is not None:
            tensors[f"{base}.alpha"] = torch.tensor(alpha, dtype=dtype)
    return write(path, tensors)
