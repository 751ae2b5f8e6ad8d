"""What a denoiser believes the finished latent to be, halfway: a noisy latent shows nothing to a person, this does.

The model is given x_t = sqrt(a) x_0 + sqrt(1 - a) noise, whatever the sampler, because each sampler scales its own latent to
that; so its output tells x_0 (Song et al. 2021, DDIM, equation 12; for v Salimans and Ho 2022, appendix D), with a the
model's own schedule at that timestep.
"""

import math
from typing import Any

import numpy as np
import torch


class CleanEstimate:
    """scheduler: of the model, any of diffusers' with `alphas_cumprod`."""

    def __init__(self, scheduler: Any) -> None:
        self._alphas = scheduler.alphas_cumprod.double().cpu().numpy()
        self._predicts: str = scheduler.config.prediction_type

    def __call__(self, model_input: torch.Tensor, output: torch.Tensor, timestep: float) -> torch.Tensor:
        """model_input, output: float32 (C, H, W) of one evaluation at `timestep`. Returns the same shape."""
        alpha = float(np.interp(timestep, np.arange(len(self._alphas)), self._alphas))
        signal, noise = math.sqrt(alpha), math.sqrt(1 - alpha)
        if self._predicts == "v_prediction":
            return signal * model_input - noise * output
        if self._predicts == "epsilon":
            return (model_input - noise * output) / signal
        return output  # "sample": the model says it itself
