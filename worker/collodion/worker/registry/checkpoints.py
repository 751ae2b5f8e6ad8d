"""Single-file checkpoints of Stable Diffusion 1.x, 2.x and SDXL: which architecture one is, and the configurations of its parts.

What the file says, its keys and shapes, goes before the published configurations that we ship (`configs/`). A sidecar's `config`, a
diffusers folder, replaces both: for architectures that are like none of these. What keys cannot tell is whether a model was distilled
(turbo, lightning, LCM): unless its sidecar says `default_steps` and `default_guidance_scale` it runs with too many steps and too
much guidance.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from collodion.worker.registry import folders, layouts
from collodion.worker.registry.documents import json_object, license_of
from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.registry.headers import Header
from collodion.worker.registry.predicting import schedule
from collodion.worker.registry.recognising import UNET, VAE_PREFIXES, vae_prefix
from collodion.worker.registry.sidecars import read_sidecar, sidecar_of
from collodion.worker.registry.sources import ModelSource, Part, SourceKind, WeightFile

CLIP = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
OPEN_CLIP = "cond_stage_model.model."
OPEN_CLIP_2 = "conditioner.embedders.1.model."
_REFINER = "conditioner.embedders.0.model."

_BEGINNINGS = {
    "unet": (UNET,),
    "vae": VAE_PREFIXES[:2],
    "text_encoder": (*CLIP, OPEN_CLIP),
    "text_encoder_2": (OPEN_CLIP_2,),
}

Configs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Checkpoint:
    """What a single file is: diffusers' class for it, and library, class and configuration of each part by its name."""

    pipeline: str
    classes: Mapping[str, tuple[str, str]]
    configs: Configs
    config_folder: Path | None = None


def read_checkpoint(path: Path, header: Header, file: WeightFile) -> ModelSource:
    """The model in this file, without a name. Raises ModelUnusable."""
    sidecar = read_sidecar(sidecar_of(path))
    checkpoint = checkpoint_of(header, path, sidecar)
    return ModelSource(
        name="",
        kind=SourceKind.SINGLE_FILE,
        path=path,
        pipeline=checkpoint.pipeline,
        parts=tuple(_part(header, file, checkpoint, name) for name in checkpoint.classes),
        size_bytes=file.size_bytes,
        dtype=folders.prevailing_dtype([header]),
        license=sidecar.get("license") or header.license or license_of(path.parent),
        sidecar=sidecar,
    )


def checkpoint_of(header: Header, path: Path, sidecar: Mapping[str, Any]) -> Checkpoint:
    """path: where the file was found, beside which its sidecars lie. Raises ModelUnusable."""
    _check_complete(header)
    if "config" in sidecar:
        return _configured(path.parent / Path(sidecar["config"]).expanduser(), sidecar)
    base = _base(header)
    published = _published(base)
    configs = {name: dict(config) for name, config in published["configs"].items()}
    configs["unet"] = layouts.unet_config(header, configs["unet"])
    prefix = vae_prefix(header)
    if prefix is not None:
        configs["vae"] = layouts.vae_config(header, prefix, configs["vae"])
    _describe_texts(header, configs)
    configs["scheduler"], side = schedule(header, path, sidecar, base, configs["scheduler"])
    if side is not None:
        configs["unet"]["sample_size"] = side
    configs[folders.MODEL] = published["options"]
    classes = {name: (library, class_name) for name, (library, class_name) in published["parts"].items()}
    return Checkpoint(published["pipeline"], classes, configs)


def vae_part(header: Header, file: WeightFile) -> Part:
    """Of a file that holds a VAE alone."""
    within = (vae_prefix(header) or "",)
    return Part("vae", "diffusers", "AutoencoderKL", None, (file,), *header.amount(within), within)


def vae_alone(header: Header, published: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of a VAE in a file of its own; `published`: of the VAE that it stands in for. Raises ModelUnusable."""
    prefix = vae_prefix(header) or ""
    if f"{prefix}decoder.up_blocks.0.resnets.0.conv1.weight" in header.tensors:
        return (
            published  # diffusers' own layout tells no more than this; what does not fit is refused when it is loaded
        )
    return layouts.vae_config(header, prefix, published)


# ---------------------------------------------------------------------- what it is


def _check_complete(header: Header) -> None:
    if any(name.startswith(_REFINER) for name in header.tensors):
        raise ModelUnusable(
            f"{header.path} is an SDXL refiner: it finishes what another model began, which this version does not do"
        )
    if "edm_mean" in header.tensors or "edm_vpred.sigma_max" in header.tensors:
        raise ModelUnusable(f"{header.path} was trained in EDM's formulation, which this version does not run")


def _base(header: Header) -> str:
    names = header.tensors
    if any(name.startswith(OPEN_CLIP_2) for name in names):
        return "sdxl"
    if any(name.startswith(OPEN_CLIP) for name in names):
        return "sd2"
    if any(name.startswith(CLIP[0]) for name in names):
        return "sd1"
    raise ModelUnusable(f"{header.path} has a UNet and no text encoder that this version knows")


def _describe_texts(header: Header, configs: dict[str, dict[str, Any]]) -> None:
    """Fills in what the shapes of the text encoders say."""
    encoders = configs["text_encoder"]
    if any(name.startswith(OPEN_CLIP) for name in header.tensors):
        configs["text_encoder"] = layouts.open_clip_config(header, OPEN_CLIP, encoders, projects=False)
    else:
        configs["text_encoder"] = layouts.clip_config(header, _clip_prefix(header), encoders)
    if "text_encoder_2" in configs:
        configs["text_encoder_2"] = layouts.open_clip_config(
            header, OPEN_CLIP_2, configs["text_encoder_2"], projects=True
        )
    for number in ("", "_2"):
        config = configs.get(f"text_encoder{number}")
        if config and config["vocab_size"] != _published("sd1")["configs"]["text_encoder"]["vocab_size"]:
            raise ModelUnusable(
                f"{header.path} has a vocabulary of {config['vocab_size']}, which is not CLIP's: {_CONFIGURE}"
            )


_CONFIGURE = 'a file NAME.collodion.json beside it may say {"config": FOLDER}, a diffusers folder that fits it'


def _clip_prefix(header: Header) -> str:
    known = [prefix + inner for prefix in CLIP for inner in ("text_model.", "")]
    found = (prefix for prefix in known if f"{prefix}embeddings.token_embedding.weight" in header.tensors)
    return next(found, known[0])


def _configured(folder: Path, sidecar: Mapping[str, Any]) -> Checkpoint:
    """By a diffusers folder that the sidecar names; of its weights none are used."""
    index = json_object(folder / folders.INDEX)
    parts = folders.parts_of(folder, index)
    configs = {part.name: folders.part_config(part) for part in parts}
    classes = {part.name: (part.library, part.class_name) for part in parts}
    chosen = {key: sidecar[key] for key in ("prediction_type", "timestep_spacing") if key in sidecar}
    configs["scheduler"] = {**configs.get("scheduler", {}), **chosen}
    return Checkpoint(folders.pipeline_of(index), classes, {**configs, folders.MODEL: index}, folder)


def _part(header: Header, file: WeightFile, checkpoint: Checkpoint, name: str) -> Part:
    library, class_name = checkpoint.classes[name]
    folder = None if checkpoint.config_folder is None else checkpoint.config_folder / name
    within = _BEGINNINGS.get(name, ())
    numbers, stored = header.amount(within)
    if within and not numbers and name != "vae":
        raise ModelUnusable(f"{header.path} lacks its {name}")
    return Part(name, library, class_name, folder, (file,) if numbers else (), numbers, stored, within)


@cache
def _published(base: str) -> Mapping[str, Any]:
    raw = (files(__package__) / "configs" / f"{base}.json").read_bytes()
    said: Mapping[str, Any] = msgspec.json.decode(raw)
    return said
