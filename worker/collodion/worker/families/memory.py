"""How much of the device's memory models may take, where the settings do not say."""

import os
from pathlib import Path

import torch

from collodion.worker.config import WorkerConfig
from collodion.worker.families.device import Device

_OF_A_GPU = 0.8  # of what is free at the start, less what is set aside for parked latents: the rest is for batches
_OF_A_CPU = 0.5  # of its memory, which other processes want too
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def room_for_models(config: WorkerConfig, device: Device) -> int:
    """Bytes; 0 for no bound."""
    if config.model_mib is not None:
        return config.model_mib << 20
    if device.place.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device.place)
        return max(1, int(_OF_A_GPU * free) - (config.parked_mib << 20))
    return int(_OF_A_CPU * _host_bytes())


def _host_bytes() -> int:
    """Memory of this machine, or of the container that we are in."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _CONTAINER_LIMIT.read_text().strip() if _CONTAINER_LIMIT.is_file() else ""
    return min(pages, int(limit)) if limit.isdigit() else pages
