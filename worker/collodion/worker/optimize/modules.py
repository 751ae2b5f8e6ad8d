"""Modules whose calls go through what is ready: text encoders, a VAE's decoder.

Their tensors have the rows before all other axes, on the way in and on the way out; what else they are given, and return, is part of the
signature. Rows are filled up with zeros, and those of no one are left out of the results.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree

from collodion.worker.optimize.ready import Ready, Signature, Tensors


class ReadyModule:
    """Takes the place of a module's `forward`. name: of the signature."""

    def __init__(self, name: str, module: torch.nn.Module, ready: Ready) -> None:
        self._name = name
        self._ready = ready
        self._forward: Callable[..., Any] = module.forward
        self._changed: str | None = None
        self._forms: dict[Signature, Any] = {}
        module.forward = self._call

    @contextmanager
    def changed(self, reason: str) -> Iterator[None]:
        """Within, the module does not do what it did when it was captured. reason: see Observer."""
        self._changed = reason
        try:
            yield
        finally:
            self._changed = None

    def _call(self, *arguments: Any, **options: Any) -> Any:
        signature, function, tensors, rows = self._read(arguments, options)
        if self._changed is not None:
            return self._ready.eagerly(self._changed, lambda _: {"": self._forward(*arguments, **options)}, {})[""]
        results = self._ready.run(signature, function, tensors)
        form = self._forms[signature]
        return pytree.tree_unflatten([results[str(place)][:rows] for place in range(form.num_leaves)], form)

    def _read(self, arguments: Any, options: Any) -> tuple[Signature, Callable[[Tensors], Tensors], Tensors, int]:
        leaves, form = pytree.tree_flatten((arguments, options))
        given = {str(place): leaf for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)}
        others = tuple(None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves)
        rows = len(next(iter(given.values())))
        size = self._ready.size(rows)
        tensors = {place: _filled(tensor, size) for place, tensor in given.items()}
        signature = Signature.of(self._name, (str(form), others), tensors)

        def function(tensors: Tensors) -> Tensors:
            own = [tensors.get(str(place), other) for place, other in enumerate(others)]
            arguments, options = pytree.tree_unflatten(own, form)
            made, self._forms[signature] = pytree.tree_flatten(self._forward(*arguments, **options))
            return {str(place): tensor for place, tensor in enumerate(made)}

        return signature, function, tensors, rows


def _filled(tensor: torch.Tensor, size: int) -> torch.Tensor:
    missing = size - len(tensor)
    return tensor if not missing else torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])
