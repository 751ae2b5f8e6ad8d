"""One evaluation as a function of tensors: input scale, model call, guidance and the samplers' update, for every latent at once.

It reads nothing but its tensors (`step_batch` names them), the model's weights and pools of adapters, and waits for nothing: so it can be
captured. What it is made with, it depends on: whoever keeps what was captured has to compare that.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch

from collodion.worker.adapters.adapters import Adapters
from collodion.worker.adapters.selection import Selection
from collodion.worker.families.architecture import Architecture, Rows
from collodion.worker.sampling.update import split, update

ADAPTER, TEXT = "adapter.", "text."
"""What names of tensors begin with that belong to adapters, and to texts."""


class EvaluationFunction:
    """Of one architecture. casting: what to call it in. lengths: see Rows; read for `ragged` texts only. dtype: the model's."""

    def __init__(
        self,
        architecture: Architecture,
        adapters: Adapters,
        selection: Selection,
        casting: Callable[[], AbstractContextManager[object]],
        lengths: tuple[int, ...],
        dtype: torch.dtype,
    ) -> None:
        self._architecture = architecture
        self._adapters = adapters
        self._selection = selection
        self._casting = casting
        self._lengths = lengths
        self._dtype = dtype

    def __call__(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns, of the slots:

        following: float32 (1 + H, slots, C, height, width), the state afterwards. shown: what the model was given, and outputs: what came
        out after guidance, float32 (slots, C, height, width) each. lost: bool (slots,), those that are not finite.
        """
        with self._casting(), self._adapters.applied(self._bound(tensors)):
            predicted = self._architecture.predict(self.rows(tensors))
        return self.finish(tensors, predicted)

    def rows(self, tensors: Mapping[str, torch.Tensor]) -> Rows:
        """The model call."""
        inputs = _shown(tensors).index_select(0, tensors["source"]).to(self._dtype)
        if "channels" in tensors:
            inputs = torch.cat([inputs, tensors["channels"]], dim=1)
        _, timesteps, _ = split(tensors["numbers"], len(tensors["state"]) - 1)
        return Rows(
            inputs,
            timesteps.index_select(0, tensors["source"]),
            _named(tensors, TEXT),
            tensors["guidance"],
            self._lengths,
        )

    def finish(self, tensors: Mapping[str, torch.Tensor], predicted: torch.Tensor) -> dict[str, torch.Tensor]:
        """What becomes of the model's output, (rows, C, height, width)."""
        state = tensors["state"]
        slots, predicted = state.shape[1], predicted.float()
        outputs = predicted[:slots]
        if "negative" in tensors:
            negative = predicted.index_select(0, tensors["negative"])
            guided = self._architecture.guide(outputs, negative, tensors["scales"])
            outputs = torch.where(tensors["guided"], guided, outputs)
        _, _, coefficients = split(tensors["numbers"], len(state) - 1)
        return {
            "following": update(state, outputs, tensors.get("noise"), coefficients),
            "shown": _shown(tensors),
            "outputs": outputs,
            # One reduction for each: a sum is finite only if everything in it is.
            "lost": ~outputs.sum(dim=(1, 2, 3)).isfinite(),
        }

    def _bound(self, tensors: Mapping[str, torch.Tensor]) -> Selection:
        numbers = _named(tensors, ADAPTER)
        return self._selection.bound(numbers) if numbers else self._selection


def _shown(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    scales, _, _ = split(tensors["numbers"], len(tensors["state"]) - 1)
    return tensors["state"][0] * scales


def _named(tensors: Mapping[str, torch.Tensor], beginning: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(beginning): one for name, one in tensors.items() if name.startswith(beginning)}
