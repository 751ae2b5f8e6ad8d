"""One evaluation's update for a step batch with any mix of samplers.

Every latent has a slot in one tensor, with room for the longest history among them; what a sampler lacks of that is zeros, with zeros for
coefficients. The update is the same sequence of elementwise multiply-adds for all, in one fixed order: no reduction, no matrix product,
and torch rounds a multiply-add alike in a vector and in its remainder. So a row's result is the same, bit for bit, for every batch
size and whatever its neighbours. All arithmetic is float32. What differs from evaluation to evaluation is in tensors (`Slots`), so a
CUDA graph can hold the update, and on a GPU nothing waits for the device: one small upload of numbers, one of noise.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from collodion.worker.sampling.trajectory import Trajectory

_SCALE, _TIMESTEP, _COEFFICIENTS = 0, 1, 2  # columns of a slot's numbers; the coefficients are the rest


class Slots:
    """The latents of a batch, each at its place in the tensors of the update, for as long as they are advanced together.

    slots: how many there are at least; those behind the last latent hold zeros. history: for how many history tensors there is room at
    least.
    """

    def __init__(self, rows: Sequence[Trajectory], slots: int = 0, history: int = 0) -> None:
        self.rows = rows
        self.slots = max(slots, len(rows))
        self.history = max(history, *(row.table.history for row in rows))
        self._matrices = [_padded(row.table.matrices, self.history) for row in rows]
        self._views: list[torch.Tensor] = []
        self._state: torch.Tensor | None = None

    def state(self) -> torch.Tensor:
        """The latents and their histories: float32 (1 + H, slots, C, height, width) on their device. Not to be written to."""
        if self._state is not None and all(row.state is view for row, view in zip(self.rows, self._views, strict=True)):
            return self._state
        groups: dict[int, list[int]] = {}
        for slot, row in enumerate(self.rows):
            groups.setdefault(len(row.state), []).append(slot)
        stacks = {depth: torch.stack([self.rows[i].state for i in slots], dim=1) for depth, slots in groups.items()}
        if len(stacks) == 1 and self.slots == len(self.rows) and self.history + 1 in stacks:
            return stacks[self.history + 1]
        some = next(iter(stacks.values()))
        state = some.new_zeros(1 + self.history, self.slots, *some.shape[2:])
        for depth, slots in groups.items():
            state[:depth].index_copy_(1, upload(torch.tensor(slots), some.device), stacks[depth])
        return state

    def numbers(self) -> torch.Tensor:
        """What the samplers say of the next evaluation: float32 (slots, 2 + (1 + H) * (3 + H)), on the host; see `split`."""
        drawn = [row.table.draws[row.call] is not None for row in self.rows]
        width = _COEFFICIENTS + (1 + self.history) * (3 + self.history)
        numbers = np.zeros((self.slots, width), dtype=np.float32)
        for slot, row in enumerate(self.rows):
            numbers[slot, _SCALE] = row.table.input_scales[row.call]
            numbers[slot, _TIMESTEP] = row.timestep
            matrix = self._matrices[slot][row.call]
            numbers[slot, _COEFFICIENTS:] = (matrix if drawn[slot] else _without_noise(matrix)).reshape(-1)
        return torch.from_numpy(numbers)

    def noise(self) -> torch.Tensor | None:
        """What the samplers draw in the next evaluation: float32 (slots, C, height, width) on the host, or None. To be taken once."""
        drawn = [row.draw() for row in self.rows]
        if all(one is None for one in drawn):
            return None
        noise = torch.zeros(self.slots, *self.rows[0].state.shape[1:])
        for slot, one in enumerate(drawn):
            if one is not None:
                noise[slot] = one
        return noise

    def take(self, following: torch.Tensor) -> None:
        """Moves every latent on to what `update` made of it. Cannot fail."""
        views = [following[: 1 + row.table.history, slot] for slot, row in enumerate(self.rows)]
        for row, view in zip(self.rows, views, strict=True):
            row.state = view
            row.call += 1
        self._state, self._views = following, views


def split(numbers: torch.Tensor, history: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of a batch's numbers: input scales (slots, 1, 1, 1), timesteps (slots,), coefficients (slots, 1 + H, 3 + H)."""
    coefficients = numbers[:, _COEFFICIENTS:].view(len(numbers), 1 + history, 3 + history)
    return numbers[:, _SCALE, None, None, None], numbers[:, _TIMESTEP], coefficients


def update(
    state: torch.Tensor, outputs: torch.Tensor, noise: torch.Tensor | None, coefficients: torch.Tensor
) -> torch.Tensor:
    """The state after an evaluation, of the same shape. outputs: the model's after guidance, float32 (slots, C, height, width)."""
    terms = [state[0], outputs, *state[1:]]
    return combine(terms if noise is None else [*terms, noise], coefficients)


def advance(rows: Sequence[Trajectory], model_outputs: torch.Tensor) -> None:
    """Moves every row on by one evaluation.

    model_outputs: (B, C, H, W) after guidance, in the rows' order and on their device, of any floating dtype. No row
    may be finished or occur twice.
    """
    slots = Slots(rows)
    state, noise = slots.state(), slots.noise()
    _, _, coefficients = split(upload(slots.numbers(), state.device), slots.history)
    drawn = None if noise is None else upload(noise, state.device)
    slots.take(update(state, model_outputs.float(), drawn, coefficients))


def model_inputs(rows: Sequence[Trajectory]) -> torch.Tensor:
    """What the model is given at the rows' next evaluation: float32 (B, C, H, W) on the rows' device."""
    latents = torch.stack([row.latent for row in rows])
    scales = torch.tensor([row.table.input_scales[row.call] for row in rows])
    return latents.mul_(upload(scales, latents.device)[:, None, None, None])


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies to the device without waiting for it, which on CUDA takes pinned memory."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def combine(terms: Sequence[torch.Tensor], coefficients: torch.Tensor) -> torch.Tensor:
    """The sum over terms t of coefficients[b, o, t] * terms[t][b] for each output o, added in the order of the terms.

    terms: float32 (B, C, H, W) each. coefficients: float32 (B, outputs, at least as many as there are terms), used from
    the first. Returns (outputs, B, C, H, W).
    """
    columns = coefficients.permute(2, 1, 0)[..., None, None, None]
    total = columns[0] * terms[0]
    for column, term in zip(columns[1:], terms[1:], strict=False):
        total.addcmul_(column, term)
    return total


def _padded(matrices: NDArray[np.float32], history: int) -> NDArray[np.float32]:
    """(calls, 1 + H, 3 + H) of a table with room for a longer history; the noise stays in the last column."""
    calls, outputs, terms = matrices.shape
    if outputs == 1 + history:
        return matrices
    padded = np.zeros((calls, 1 + history, 3 + history), dtype=np.float32)
    padded[:, :outputs, : terms - 1] = matrices[:, :, :-1]
    padded[:, :outputs, -1] = matrices[:, :, -1]
    return padded


def _without_noise(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Nothing is drawn: what stands at the noise's place may be anything."""
    if not matrix[:, -1].any():
        return matrix
    quiet = matrix.copy()
    quiet[:, -1] = 0.0
    return quiet
