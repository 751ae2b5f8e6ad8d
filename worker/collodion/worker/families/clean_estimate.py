"""What a denoiser believes the finished latent to be, halfway: a noisy latent shows nothing to a person, this does.

The model is given x_t, a mixture of the clean latent x_0 and noise in proportions that its timestep tells, whatever the sampler, because
each sampler scales its own latent to that; so its output tells x_0.

- Diffusion: x_t = sqrt(a) x_0 + sqrt(1 - a) noise, with a the model's own schedule at that timestep (Song et al. 2021, DDIM, equation 12;
  for v Salimans and Ho 2022, appendix D).
- Flow matching: x_t = (1 - s) x_0 + s noise, with s the timestep as a share of those that it was trained with. The output is
  noise - x_0 (Esser et al. 2024, equations 8 and 13).
"""

import math
from typing import Any

import numpy as np
import torch

from collodion.worker.sampling.catalog import FLOW_PREDICTION, flow_matching


class CleanEstimate:
    """scheduler: of the model, any of diffusers' with `alphas_cumprod` or for flow matching."""

    def __init__(self, scheduler: Any) -> None:
        if flow_matching(scheduler.config):
            self._predicts = FLOW_PREDICTION
            self._timesteps = float(scheduler.config.num_train_timesteps)
        else:
            self._predicts = str(scheduler.config.prediction_type)
            self._alphas = scheduler.alphas_cumprod.double().cpu().numpy()

    def __call__(self, model_input: torch.Tensor, output: torch.Tensor, timestep: float) -> torch.Tensor:
        """model_input, output: float32 (C, H, W) of one evaluation at `timestep`. Returns the same shape."""
        if self._predicts == FLOW_PREDICTION:
            return model_input - timestep / self._timesteps * output
        alpha = float(np.interp(timestep, np.arange(len(self._alphas)), self._alphas))
        signal, noise = math.sqrt(alpha), math.sqrt(1 - alpha)
        if self._predicts == "v_prediction":
            return signal * model_input - noise * output
        if self._predicts == "epsilon":
            return (model_input - noise * output) / signal
        return output  # "sample": the model says it itself
