"""Which architecture runs which of diffusers' pipelines."""

from collodion.worker.families.architecture import Architecture
from collodion.worker.families.flux import Flux
from collodion.worker.families.qwen_image import QwenImage
from collodion.worker.families.stable_diffusion import StableDiffusion
from collodion.worker.families.stable_diffusion_3 import StableDiffusion3
from collodion.worker.families.stable_diffusion_xl import StableDiffusionXL
from collodion.worker.families.z_image import ZImage

ARCHITECTURES: tuple[type[Architecture], ...] = (
    StableDiffusion,
    StableDiffusionXL,
    StableDiffusion3,
    Flux,
    QwenImage,
    ZImage,
)


def architecture_of(pipeline_class: str) -> type[Architecture] | None:
    """None if nobody runs it."""
    return next((one for one in ARCHITECTURES if pipeline_class in one.pipelines), None)
