"""What a device is called together with all others of the same speed, so that what was learned on one serves for the next."""

import platform
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")


def device_kind(device: str) -> str:
    """For a device as `load_models` names it: the GPU's model, `cpu: ` and the processor's, or simulated."""
    if device == "simulated":
        return device
    if device == "cpu":
        return f"cpu: {_cpu()}"
    import torch

    return torch.cuda.get_device_name(device)


def _cpu() -> str:
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
