"""From responses to matrices: the smallest history that reproduces a linear, time-varying system.

Before call k, what is still to come depends on the past through a map (later outputs x past inputs), the Hankel
matrix of the theory (Ho and Kalman 1966; Dewilde and van der Veen, Time-Varying Systems and Computations, 1998, chapter 3);
its rank is the number of history tensors needed. It is never formed: one goes forward from call to call, and the
past is already known by its few history coordinates, so each step reduces a map from H + 3 coordinates.

The coordinates are orthonormal, in units in which latent, model output and noise are all of size one. The basis is
the Gram-Schmidt basis of the map's rows in order of time, which, unlike singular vectors, is unique and moves little with
rounding: two machines make the same table, and a latent may go from one to the other.
"""

import numpy as np
from numpy.typing import NDArray

from collodion.worker.sampling.response import INPUTS, Response

TOLERANCE = 1e-6
"""Of an output's own size: what depends on the past by less is rounding inside the scheduler."""

Matrix = NDArray[np.float64]


def realise(response: Response) -> NDArray[np.float32]:
    """The matrices of a table: (calls, 1 + H, 3 + H), rows x' and h', columns x, e, h, z; unused entries are zero."""
    units = _input_units(response)
    outputs = response.outputs * units
    sizes = np.linalg.norm(outputs, axis=(1, 2))
    outputs = outputs / np.where(sizes > 0, sizes, 1.0)[:, None, None]
    future = np.zeros((len(outputs), 0))
    parts = []
    for call in range(len(outputs)):
        combined = np.hstack([future, outputs[call:, call]])
        basis = _row_basis(combined[1:])
        parts.append((combined[0] * sizes[call], basis, units[call]))
        future = combined[1:] @ basis.T
    return _assemble(parts)


def _input_units(response: Response) -> Matrix:
    """(calls, INPUTS): the size of each input; a latent is about as large as its scaling for the model says."""
    units = np.ones((len(response.input_scales), INPUTS))
    units[:, 0] = 1.0 / np.asarray(response.input_scales)
    return units


def _row_basis(rows: Matrix) -> Matrix:
    """Orthonormal rows that span `rows` up to TOLERANCE: the first row's direction first, and so on."""
    basis = np.zeros((0, rows.shape[1]))
    rest = rows
    while len(basis) < rows.shape[1]:
        norms = np.linalg.norm(rest, axis=1)
        if not (norms > TOLERANCE).any():
            break
        first = int(np.argmax(norms > TOLERANCE))
        direction = rest[first] - (rest[first] @ basis.T) @ basis
        basis = np.vstack([basis, direction / np.linalg.norm(direction)])
        rest = rows - (rows @ basis.T) @ basis
    return basis


def _assemble(parts: list[tuple[Matrix, Matrix, Matrix]]) -> NDArray[np.float32]:
    """Pads each call's (x' row, h' rows, input units) to one history length."""
    history = max(len(basis) for _, basis, _ in parts)
    matrices = np.zeros((len(parts), 1 + history, INPUTS + history))
    for matrix, (output, basis, units) in zip(matrices, parts, strict=True):
        rows = np.vstack([output, basis])
        before = rows.shape[1] - INPUTS
        inputs = rows[:, before:] / units
        matrix[: len(rows), :2] = inputs[:, :2]
        matrix[: len(rows), 2 : 2 + before] = rows[:, :before]
        matrix[: len(rows), -1] = inputs[:, 2]
    rounded = matrices.astype(np.float32)
    rounded.flags.writeable = False
    return rounded
