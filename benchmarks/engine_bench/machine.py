"""The machine that was measured on, beside what every benchmark says of it."""

import subprocess
from typing import Any

import torch

from common import environment

_ASKED = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu")


def machine(place: torch.device) -> dict[str, Any]:
    """With the GPU's name, driver and clocks if there is one."""
    said = environment() | {"threads": torch.get_num_threads()}
    return said if place.type != "cuda" else said | {"gpu": _gpu(place)}


def _gpu(place: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(place)
    said: dict[str, Any] = {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "capability": ".".join(map(str, torch.cuda.get_device_capability(place))),
        "cuda": torch.version.cuda,
    }
    command = ["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader", f"--id={place.index or 0}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return said
    values = done.stdout.strip().split(", ")
    return said | dict(zip(_ASKED, values, strict=False)) if done.returncode == 0 else said
