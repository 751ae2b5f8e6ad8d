"""One evaluation's update for a step batch with any mix of samplers.

Rows are grouped by history length and by whether they draw noise, so that a row's arithmetic depends on its own table
alone. Within a group every output is the same sequence of elementwise multiply-adds in one fixed order: no reduction, no
matrix product, and torch rounds a multiply-add alike in a vector and in its remainder. So a row's result is the same, bit
for bit, for every batch size and whatever its neighbours. All arithmetic is float32. On a GPU nothing waits for the
device: one small upload of coefficients a group, one of noise.
"""

from collections.abc import Sequence

import numpy as np
import torch

from collodion.worker.sampling.trajectory import Trajectory


def model_inputs(rows: Sequence[Trajectory]) -> torch.Tensor:
    """What the model is given at the rows' next evaluation: float32 (B, C, H, W) on the rows' device."""
    latents = torch.stack([row.latent for row in rows])
    scales = torch.tensor([row.table.input_scales[row.call] for row in rows])
    return latents.mul_(_upload(scales, latents.device)[:, None, None, None])


def advance(rows: Sequence[Trajectory], model_outputs: torch.Tensor) -> None:
    """Moves every row on by one evaluation.

    model_outputs: (B, C, H, W) after guidance, in the rows' order and on their device, of any floating dtype. No row
    may be finished or occur twice.
    """
    outputs = model_outputs.float().unbind()
    groups: dict[tuple[int, bool], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault((row.table.history, row.table.draws[row.call] is not None), []).append(index)
    for (_, noisy), indices in groups.items():
        _advance_group([rows[i] for i in indices], [outputs[i] for i in indices], noisy)


def _advance_group(rows: list[Trajectory], outputs: list[torch.Tensor], noisy: bool) -> None:
    state = torch.stack([row.state for row in rows], dim=1)
    terms = [state[0], torch.stack(outputs), *state[1:]]
    if noisy:
        terms.append(_upload(_draw(rows), state.device))
    coefficients = torch.from_numpy(np.stack([row.table.matrices[row.call] for row in rows]))
    following = combine(terms, _upload(coefficients, state.device))
    for row, moved in zip(rows, following.unbind(1), strict=True):
        row.state = moved
        row.call += 1


def _draw(rows: list[Trajectory]) -> torch.Tensor:
    drawn = [row.draw() for row in rows]
    return torch.stack([noise for noise in drawn if noise is not None])


def _upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
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
