"""What a wish becomes for one model on one device, resolved before anything of the model is loaded.

`auto` is what is known to be safe and believed to be fast there; it never asks for a package that may be missing, nor for a start that
takes minutes. What is asked for by name and cannot work together, or on such a device, is refused here.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch

from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.precision import DTYPES
from collodion.worker.optimize.quantization import check as check_quantization
from collodion.worker.optimize.wishes import (
    Attention,
    Compilation,
    Decoding,
    MemoryFormat,
    Precision,
    Quantization,
    Switch,
    VaeMemory,
    Wish,
)

_Chosen = TypeVar("_Chosen")


@dataclass(frozen=True)
class Plan:
    """A wish without `auto`, but for the VAE's precision and memory, which its weights and its pictures decide, and for the step cache,
    which its denoiser may not allow.

    sizes: (width, height) in pixels, made ready when the model is loaded; empty for its native one.
    """

    dtype: torch.dtype
    vae_dtype: Precision
    attention: Attention
    memory_format: MemoryFormat
    fuse_qkv: bool
    quantize: Quantization
    deepspeed: bool
    compile: Compilation
    cuda_graphs: bool
    step_cache: Switch
    vae: VaeMemory
    decode: Decoding
    sizes: tuple[tuple[int, int], ...]

    @property
    def loras(self) -> bool:
        """Whether requests may name adapters: the blocks of DeepSpeed have no layers that these could change."""
        return not self.deepspeed

    @property
    def makes_ready(self) -> bool:
        """Whether something is compiled or captured when the model is loaded."""
        return self.cuda_graphs or self.compile is not Compilation.OFF

    @property
    def weights(self) -> tuple[object, ...]:
        """What of it changes weights when they are loaded: models share them only if they agree in this."""
        return self.quantize, self.memory_format, self.fuse_qkv, self.deepspeed


def dtype_of(wish: Wish, place: torch.device, gpu_dtype: torch.dtype) -> torch.dtype:
    """What the model computes in."""
    return DTYPES.get(wish.dtype, gpu_dtype if place.type == "cuda" else torch.float32)


def resolve(wish: Wish, place: torch.device, gpu_dtype: torch.dtype, convolutional: bool) -> Plan:
    """gpu_dtype: what this architecture computes in on a GPU. convolutional: whether its denoiser is a UNet. Raises Unsuitable."""
    gpu = place.type == "cuda"
    deepspeed = wish.deepspeed is Switch.ON
    _check_device(wish, gpu)
    _check_together(wish)
    check_quantization(wish.quantize, place)
    return Plan(
        dtype=dtype_of(wish, place, gpu_dtype),
        vae_dtype=wish.vae_dtype,
        attention=_chosen(wish.attention, Attention.SDPA),
        memory_format=_chosen(
            wish.memory_format, MemoryFormat.CHANNELS_LAST if gpu and convolutional else MemoryFormat.CONTIGUOUS
        ),
        fuse_qkv=wish.fuse_qkv is Switch.ON,
        quantize=_chosen(wish.quantize, Quantization.OFF),
        deepspeed=deepspeed,
        compile=_chosen(wish.compile, Compilation.OFF),
        cuda_graphs=gpu and wish.cuda_graphs is not Switch.OFF,
        step_cache=wish.step_cache,
        vae=wish.vae,
        decode=_chosen(wish.decode, Decoding.BETWEEN),
        sizes=wish.ready_sizes,
    )


def _check_device(wish: Wish, gpu: bool) -> None:
    needing = {
        "cuda_graphs": wish.cuda_graphs is Switch.ON,
        "deepspeed": wish.deepspeed is Switch.ON,
        "decode": wish.decode is Decoding.BESIDE,
    }
    for key, asked in needing.items():
        if asked and not gpu:
            raise Unsuitable(f"optimize: {key}={getattr(wish, key)} needs a CUDA device")


def _check_together(wish: Wish) -> None:
    quantized = wish.quantize not in (Quantization.AUTO, Quantization.OFF)
    if quantized and wish.fuse_qkv is Switch.ON:
        raise Unsuitable(f"optimize: fuse_qkv=on lays together the matrices that quantize={wish.quantize} keeps apart")
    if wish.deepspeed is not Switch.ON:
        return
    for key, asked in (
        ("quantize", quantized),
        ("fuse_qkv", wish.fuse_qkv is Switch.ON),
        ("compile", wish.compile is Compilation.REGIONAL),
        ("attention", wish.attention is not Attention.AUTO),
    ):
        if asked:
            raise Unsuitable(f"optimize: {key}={getattr(wish, key)} changes the blocks that deepspeed=on replaces")


def _chosen(asked: _Chosen, automatic: _Chosen) -> _Chosen:
    return automatic if str(asked) == "auto" else asked
