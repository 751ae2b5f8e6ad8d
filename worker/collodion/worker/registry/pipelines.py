"""Which pipelines of diffusers we know, and the `base` of each: the architecture that its adapters are made for."""

from collections.abc import Mapping
from typing import Any

from collodion.worker.registry.errors import ModelUnusable

_SD2_TEXT_WIDTH = 1024

_BASES: Mapping[str, str] = {
    "StableDiffusionPipeline": "sd1",
    "StableDiffusionImg2ImgPipeline": "sd1",
    "StableDiffusionInpaintPipeline": "sd1",
    "StableDiffusionInpaintPipelineLegacy": "sd1",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionXLImg2ImgPipeline": "sdxl",
    "StableDiffusionXLInpaintPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "StableDiffusion3Img2ImgPipeline": "sd3",
    "StableDiffusion3InpaintPipeline": "sd3",
    "FluxPipeline": "flux1",
    "FluxImg2ImgPipeline": "flux1",
    "FluxInpaintPipeline": "flux1",
    "QwenImagePipeline": "qwen-image",
    "QwenImageImg2ImgPipeline": "qwen-image",
    "QwenImageInpaintPipeline": "qwen-image",
    "ZImagePipeline": "z-image",
    "ZImageImg2ImgPipeline": "z-image",
}


def base_of(where: object, pipeline: Any, configs: Mapping[str, Mapping[str, Any]]) -> str:
    """Raises ModelUnusable for a pipeline that we do not know; `where` is for its words."""
    base = _BASES.get(pipeline) if isinstance(pipeline, str) else None
    if base is None:
        raise ModelUnusable(f"{where} is a {str(pipeline)[:100]}, which this version does not run")
    if base == "sd1" and configs.get("unet", {}).get("cross_attention_dim") == _SD2_TEXT_WIDTH:
        return "sd2"
    return base
