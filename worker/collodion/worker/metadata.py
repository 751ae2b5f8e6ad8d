"""What a picture's file says of how it was drawn.

The same two texts in every format: the parameters as people exchange them (the lines that AUTOMATIC1111's web UI writes and most
galleries read; adapters are tags in the prompt there), and as JSON, which sent again draws the same picture, with what it began from if it
began from a picture: of that it has the SHA-256. PNG: text chunks `parameters` and `collodion`. JPEG and WebP:
EXIF UserComment (UTF-16) and ImageDescription (ASCII).
"""

import json

import msgspec
from PIL import ExifTags, Image, PngImagePlugin

from collodion.wire.artifacts import upload_sha256
from collodion.wire.jobs import Parameters

_LONGEST_EXIF = 60_000  # bytes; a JPEG holds 65,533 in all
_UNICODE = b"UNICODE\0"  # the character code of a UserComment, Exif 2.32, table 9


def of_image(parameters: Parameters, seed: int) -> Parameters:
    """What draws one image of a job alone."""
    return msgspec.structs.replace(parameters, seed=seed, images=1)


def as_text(parameters: Parameters) -> str:
    """Prompt, negative prompt, and a line of settings."""
    settings: dict[str, object] = {
        "Steps": parameters.steps,
        "Sampler": parameters.sampler,
        "CFG scale": f"{parameters.guidance_scale:g}",
        "Seed": parameters.seed,
        "Size": f"{parameters.width}x{parameters.height}",
        "Model": parameters.model,
    }
    if parameters.init_image:
        settings["Denoising strength"] = f"{parameters.strength:g}"
    if parameters.step_cache:
        settings["Step cache"] = f"{parameters.step_cache:g}"
    settings["Version"] = "collodion"
    lines = [parameters.prompt + "".join(f" <lora:{lora.name}:{lora.scale:g}>" for lora in parameters.loras)]
    if parameters.negative_prompt:
        lines.append(f"Negative prompt: {parameters.negative_prompt}")
    lines.append(", ".join(f"{key}: {value}" for key, value in settings.items()))
    return "\n".join(lines).replace("\0", "")


def as_json(parameters: Parameters) -> str:
    """Every field by the name that requests have for it; of adapters, a picture to begin from and a step cache only if it has one."""
    fields = {name: getattr(parameters, name) for name in parameters.__struct_fields__}
    loras, strength = fields.pop("loras"), fields.pop("strength")
    if not parameters.step_cache:
        del fields["step_cache"]
    if loras:
        fields["loras"] = [{"name": lora.name, "scale": lora.scale} for lora in loras]
    for name in ("init_image", "mask_image"):
        if key := fields.pop(name):
            fields[f"{name}_sha256"] = upload_sha256(key)
            fields["strength"] = strength
    return json.dumps(fields)


def as_png(parameters: Parameters) -> PngImagePlugin.PngInfo:
    """For `Image.save(pnginfo=…)`."""
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", as_text(parameters))
    info.add_text("collodion", as_json(parameters))
    return info


def as_exif(parameters: Parameters) -> Image.Exif:
    """For `Image.save(exif=…)`. Where both texts together are too long the JSON is left out, and then the text is cut."""
    text = as_text(parameters).encode("utf-16-be", "replace")
    text = text[:_LONGEST_EXIF].decode("utf-16-be", "ignore").encode("utf-16-be")  # no half of a character at the end
    data = as_json(parameters)
    exif = Image.Exif()
    if len(text) + len(data) <= _LONGEST_EXIF:
        exif[ExifTags.Base.ImageDescription] = data
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = _UNICODE + text
    return exif
