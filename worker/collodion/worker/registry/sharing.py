"""Weights that models share because they name the same file: held once on each device.

Two models get modules of their own around the same parameters, so that whoever changes one model's modules (hooks, adapters) does not
touch the other's. What is kept here holds no memory: when the last module that uses a parameter is gone, so is the parameter.
"""

import copy
import threading
import weakref
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class _Held:
    """A module without its parameters' memory, and the parameters by all their names."""

    shell: Any
    parameters: dict[str, "weakref.ref[torch.nn.Parameter]"]


class SharedWeights:
    """What is loaded on all devices of this process. Any thread."""

    def __init__(self) -> None:
        self._held: dict[Hashable, _Held] = {}
        self._lock = threading.Lock()

    def find(self, key: Hashable) -> Any | None:
        """A new module around the parameters that are held under this key; None if they are gone, or never were."""
        with self._lock:
            held = self._held.get(key)
        if held is None:
            return None
        parameters = {name: held_weakly() for name, held_weakly in held.parameters.items()}
        if any(parameter is None for parameter in parameters.values()):
            return None
        module = copy.deepcopy(held.shell)
        for name, parameter in parameters.items():
            owner, _, last = name.rpartition(".")
            module.get_submodule(owner)._parameters[last] = parameter
        return module

    def keep(self, key: Hashable, module: Any) -> None:
        """Remembers the parameters of a module that nobody has changed yet."""
        named = dict(module.named_parameters(remove_duplicate=False))
        empty: dict[int, Any] = {
            id(parameter): torch.nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
            for parameter in named.values()
        }
        held = _Held(copy.deepcopy(module, empty), {name: weakref.ref(parameter) for name, parameter in named.items()})
        with self._lock:
            gone = [key for key, held in self._held.items() if any(each() is None for each in held.parameters.values())]
            for each in gone:
                del self._held[each]
            self._held[key] = held
