"""In what precision a model's parts compute.

1. Latents, and everything that a sampler does with them, are float32 whatever is chosen.
2. A VAE whose activations leave the range of float16 gives black pictures in it. AutoencoderKL's `force_upcast` says of which VAEs that is
   known: SDXL's, and FLUX's, which is Z-Image's too. They compute in bfloat16, which has float32's range at half of its memory traffic
   (docs/performance.md: what it costs), and in float32 where there is none. Of SD 1's and 2's VAE it says nothing: diffusers writes its
   default, true, when it saves one, and their pipelines do not look at it.
3. What is said there is proved when a model is loaded: no float16 VAE draws for anybody before it has decoded what a latent may be.
4. A denoiser with parameters of several precisions is called with autocast. None of today's families has one: diffusers keeps nothing of
   theirs in float32 (`_keep_in_fp32_modules`), and what they compute in float32 (embeddings of timesteps, positions) they cast themselves.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from collodion.wire.jobs import Optimization
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.wishes import Precision

if TYPE_CHECKING:
    from collodion.worker.families.architecture import Architecture

DTYPES = {
    Precision.FLOAT32: torch.float32,
    Precision.FLOAT16: torch.float16,
    Precision.BFLOAT16: torch.bfloat16,
}
MOST = torch.finfo(torch.float16).max / 2
"""What a float16 VAE may reach on latents that were made up: half of the range is left for real ones."""
_SD_SCALE = 0.18215  # the scaling_factor of SD 1's and 2's VAE
_SIDE = 32  # pixels of the latents that are tried
_DEVIATIONS = 5.0  # a normalised latent's standard deviation is about 1


def name_of(dtype: torch.dtype) -> str:
    """As the settings have it: "float32"."""
    return str(dtype).removeprefix("torch.")


def vae_dtype(
    wish: Precision, model_dtype: torch.dtype, vae_config: Mapping[str, Any], place: torch.device
) -> torch.dtype:
    """What a VAE is to be loaded in. vae_config: as its file has it, where a key that is missing says nothing."""
    if wish is not Precision.AUTO:
        return DTYPES[wish]
    known = vae_config.get("force_upcast") and vae_config.get("scaling_factor", _SD_SCALE) != _SD_SCALE
    return _wide(place) if known and model_dtype is torch.float16 else model_dtype


def settle_vae(architecture: "Architecture", wish: Precision, place: torch.device) -> Optimization:
    """Sees to it that the VAE is of what was asked for. In float16 it is proved, or made wider if nobody asked. Raises Unsuitable.

    To be called before anything reads `architecture.vae.dtype`; on the loading thread, after `architecture` was made.
    """
    module: nn.Module = architecture.pipeline.vae
    if wish is not Precision.AUTO and architecture.vae.dtype is not DTYPES[wish]:
        recast(module, DTYPES[wish])
    dtype = architecture.vae.dtype
    if dtype is not torch.float16:
        return Optimization("vae_dtype", name_of(dtype))
    reached = largest_activation(architecture)
    if reached <= MOST:
        return Optimization(
            "vae_dtype", name_of(dtype), f"activations of at most {reached:,.0f} where float16 ends at 65,504"
        )
    if wish is Precision.FLOAT16:
        raise Unsuitable(
            f"vae_dtype=float16: this model's VAE overflows in it (activations of {_said(reached)} "
            f"where float16 ends at 65,504); bfloat16 and float32 do not"
        )
    wide = _wide(place)
    recast(module, wide)
    return Optimization("vae_dtype", name_of(wide), "in float16 it overflows")


def largest_activation(architecture: "Architecture") -> float:
    """What this VAE's layers reach, decoding latents and encoding pictures that are as strong as any may be; NaN if it overflows."""
    vae, module = architecture.vae, architecture.pipeline.vae
    latents = _latents(architecture.latent_shape(_SIDE * vae.factor, _SIDE * vae.factor)).to(module.device)
    with torch.inference_mode(), _watched(module) as reached:
        decoded = vae.decode(latents)
        vae.encode(decoded.float().nan_to_num().clamp(-1, 1).sign())  # hard edges between black and white
    return float(torch.stack(reached).amax())


def recast(module: nn.Module, dtype: torch.dtype) -> None:
    """Gives the module parameters and buffers of its own in `dtype`; unlike `module.to`, which changes those that other models share."""
    with torch.inference_mode(mode=False):
        for each in module.modules():
            for name, parameter in list(each._parameters.items()):
                if parameter is not None and parameter.is_floating_point():
                    each._parameters[name] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
            for name, buffer in list(each._buffers.items()):
                if buffer is not None and buffer.is_floating_point():
                    each._buffers[name] = buffer.to(dtype)


def needs_autocast(denoiser: nn.Module) -> bool:
    """Whether its parameters are of several precisions: without autocast a layer would refuse the output of the one before."""
    return len(_weights_by_dtype(denoiser)) > 1


def casting(denoiser: nn.Module) -> Callable[[], AbstractContextManager[object]]:
    """What to call the denoiser in, made anew for each call: autocast to what most of its weights are of, if it needs it, else nothing."""
    if not needs_autocast(denoiser):
        return nullcontext
    dtype = _weights_by_dtype(denoiser).most_common(1)[0][0]
    place = next(denoiser.parameters()).device
    # Without its cache of cast weights, which would be freed when the call is over, though a CUDA graph goes on reading it.
    return partial(torch.autocast, place.type, dtype=dtype, cache_enabled=False)


def _weights_by_dtype(module: nn.Module) -> Counter[torch.dtype]:
    counts: Counter[torch.dtype] = Counter()
    for parameter in module.parameters():
        if parameter.is_floating_point():
            counts[parameter.dtype] += parameter.numel()
    return counts


def _wide(place: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it; on a CPU it saves no time."""
    if place.type != "cuda":
        return torch.float32
    with torch.cuda.device(place):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32


def _latents(shape: tuple[int, int, int]) -> torch.Tensor:
    """float32 (4, C, H, W): noise as strong as a latent, noise as strong as its rarest pixels, their extremes side by side, and a slope."""
    channels, height, width = shape
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    noise[1] *= _DEVIATIONS
    slope = torch.linspace(-_DEVIATIONS, _DEVIATIONS, height)[:, None].expand(channels, height, width)
    blocks = torch.arange(width) // 4 + torch.arange(height)[:, None] // 4
    extremes = (blocks % 2 * 2.0 - 1.0).expand(channels, height, width) * _DEVIATIONS
    return torch.cat([noise, torch.stack([slope, extremes])]).clamp(-_DEVIATIONS, _DEVIATIONS)


@contextmanager
def _watched(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """How large the outputs of its layers and blocks are, whose sums no layer sees: float32 scalars on its device, NaN for infinity."""
    reached: list[torch.Tensor] = []

    def note(_layer: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            largest = output.detach().abs().amax().float()
            reached.append(torch.where(largest.isfinite(), largest, torch.nan))

    hooks = [layer.register_forward_hook(note) for layer in module.modules()]
    try:
        yield reached
    finally:
        for hook in hooks:
            hook.remove()


def _said(reached: float) -> str:
    return f"{reached:,.0f}" if reached == reached else "infinity"
