"""A training run that can be stopped and resumed.

Rules of this file: safetensors only, written beside the old checkpoint and renamed over it, so that a run killed at any moment finds a
whole one. Step, smoothed loss and the time spent so far travel in the file's metadata.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

FILE = "checkpoint.safetensors"


def _flat_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimiser.state_dict()["state"]
    return {f"optimiser.{row}.{name}": value for row, values in state.items() for name, value in values.items()}


class Run:
    """Modules and their optimiser, with the step reached; restored from `folder` where a checkpoint lies in it."""

    def __init__(self, folder: Path, modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer) -> None:
        self.file, self.modules, self.optimiser = folder / FILE, modules, optimiser
        self.step, self.loss, self.wall_s, self.cpu_s = 0, 0.0, 0.0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if self.file.exists():
            self._restore()

    def advance(self, loss: float) -> None:
        """Count a step and smooth its loss."""
        self.loss = loss if self.step == 0 else 0.99 * self.loss + 0.01 * loss
        self.step += 1

    def clock(self, wall_s: float, cpu_s: float) -> None:
        """Add time spent."""
        self.wall_s += wall_s
        self.cpu_s += cpu_s

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        tensors = {
            f"{name}.{key}": value
            for name, module in self.modules.items()
            for key, value in module.state_dict().items()
        }
        tensors |= _flat_optimiser(self.optimiser)
        notes = {name: str(getattr(self, name)) for name in ("step", "loss", "wall_s", "cpu_s")}
        part = self.file.with_suffix(".part")
        save_file({key: value.contiguous() for key, value in tensors.items()}, part, metadata=notes)
        part.replace(self.file)

    def _restore(self) -> None:
        with safe_open(self.file, "pt") as file:
            notes = file.metadata()
        tensors = load_file(self.file)
        for name, module in self.modules.items():
            module.load_state_dict(_under(tensors, name))
        self._restore_optimiser(_under(tensors, "optimiser"))
        self.step, self.loss = int(notes["step"]), float(notes["loss"])
        self.wall_s, self.cpu_s = float(notes["wall_s"]), float(notes["cpu_s"])

    def _restore_optimiser(self, flat: Mapping[str, torch.Tensor]) -> None:
        state = self.optimiser.state_dict()
        for key, value in flat.items():
            row, name = key.split(".", 1)
            state["state"].setdefault(int(row), {})[name] = value
        self.optimiser.load_state_dict(state)


def _under(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The tensors whose key starts with the name, without it."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def read(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The state of one module of the folder's checkpoint."""
    return _under(load_file(folder / FILE), name)
