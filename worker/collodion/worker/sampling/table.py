"""`SamplerTable`: all that is known of one sampler at one number of steps for one model.

A table is data, immutable and shared by every latent that uses it. One evaluation is

    [x'; h'] = M · [x; e; h; z]

with x the latent, e the model's output after guidance, h the history tensors, z standard normal noise and M the matrix
of that model call. The history starts at zero. What the history tensors mean is private to the table: carry them on
only with the table they were made with. x is an input like any other: whoever paints over the latent between two calls, as
inpainting does, gets what the scheduler would make of that.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

NoiseDtype = Literal["model", "float32"]
"""In which dtype a scheduler draws: that of the model's output, or always float32."""


@dataclass(frozen=True, eq=False)
class SamplerTable:
    """One entry per model call (evaluation) in every tuple, and along the first axis of `matrices`.

    name: as asked for. steps: those that are run, counted as the user does; `len(table)` counts model calls.
    timesteps: what the model is given, exactly as diffusers passes it; some are fractions.
    input_scales: the model is given `input_scale * x`.
    step_of: the step, counted from 0 of those that are run, that the call belongs to.
    matrices: float32 (calls, 1 + H, 3 + H), read-only; columns are x, e, the H history tensors, z.
    init_noise_sigma: standard deviation of the initial latent.
    draws: the dtype of the noise tensor that the scheduler draws in that call, or None. A draw whose coefficient is
        zero is listed too: it moves the generator on.
    levels: one more than there are calls. `levels[call]` is (signal, noise): what the scheduler mixes of a clean latent and of
        standard normal noise to have a latent as noisy as before that call. A latent that begins from a picture begins as
        `levels[0]` says; inpainting puts the picture back at `levels[calls done]`; the last is (1, 0), the clean latent itself.
        For a flow-matching model `noise` is sigma: the clean estimate at a call is x - levels[call][1] * e.
    """

    name: str
    steps: int
    timesteps: tuple[float, ...]
    input_scales: tuple[float, ...]
    step_of: tuple[int, ...]
    matrices: NDArray[np.float32]
    init_noise_sigma: float
    draws: tuple[NoiseDtype | None, ...]
    levels: tuple[tuple[float, float], ...]

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def history(self) -> int:
        """H, the number of history tensors that a latent carries beside its own."""
        return int(self.matrices.shape[1]) - 1
