"""What a single file's denoiser predicts: its scheduler's configuration, as far as the shapes of weights cannot tell it.

Asked in this order: the sidecar; the metadata (`modelspec.prediction_type`); a tensor `v_pred`; A1111's `NAME.yaml` with
`parameterization: v`; for SD 2.x a weight whose spread tells the published models apart (ComfyUI's rule: above 0.09 it is v); else
epsilon. A tensor `ztsnr` says that the model was trained down to no signal at all (Lin et al. 2024, arXiv:2305.08891).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from collodion.worker.registry.headers import Entry, Header, opened
from collodion.worker.registry.recognising import UNET
from collodion.worker.registry.sidecars import PREDICTIONS

_TELLING = UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_SPREAD_OF_V = 0.09
_V_SIDE = 96  # of the latents of SD 2.x with v-prediction: 768 pixels
_SPELLED = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
}
_YAML_BYTES = 1_000_000
_YAML = re.compile(rb"^\s*parameterization\s*:\s*[\"']?v[\"']?\s*$", re.MULTILINE)


def schedule(
    header: Header, path: Path, sidecar: Mapping[str, Any], base: str, published: Mapping[str, Any]
) -> tuple[dict[str, Any], int | None]:
    """The scheduler's configuration, and the side of the model's own latents if that depends on it. Raises ModelUnusable."""
    predicts = sidecar.get("prediction_type") or _said(header) or _by_yaml(path) or _by_weights(header, base)
    config = {**published, "prediction_type": predicts}
    if "ztsnr" in header.tensors:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if "timestep_spacing" in sidecar:
        config["timestep_spacing"] = sidecar["timestep_spacing"]
    return config, _V_SIDE if base == "sd2" and predicts == PREDICTIONS[1] and not _inpaints(header) else None


def _inpaints(header: Header) -> bool:
    shape = header.shape(UNET + "input_blocks.0.0.weight")
    return shape is not None and shape[1:2] != (4,)


def _said(header: Header) -> str | None:
    said = header.metadata.get("modelspec.prediction_type", "").lower()
    if said in _SPELLED:
        return _SPELLED[said]
    return PREDICTIONS[1] if "v_pred" in header.tensors else None


def _by_yaml(path: Path) -> str | None:
    try:
        with path.with_suffix(".yaml").open("rb") as file:
            return PREDICTIONS[1] if _YAML.search(file.read(_YAML_BYTES)) else None
    except OSError:
        return None


def _by_weights(header: Header, base: str) -> str:
    entry = header.tensors.get(_TELLING)
    if base != "sd2" or entry is None or _inpaints(header):
        return PREDICTIONS[0]
    numbers = _floats(header, entry)
    return PREDICTIONS[1] if numbers is not None and float(numbers.std()) > _SPREAD_OF_V else PREDICTIONS[0]


def _floats(header: Header, entry: Entry) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    with opened(header.path) as file:
        file.seek(entry.begin)
        raw = file.read(entry.end - entry.begin)
    match entry.dtype:
        case "F32" | "F16":
            return np.frombuffer(raw, "<f4" if entry.dtype == "F32" else "<f2").astype(np.float32)
        case "BF16":  # the upper half of a float32
            return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return None
