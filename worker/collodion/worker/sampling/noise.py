"""The random numbers of one latent, from its own generator.

The generator lives on the CPU, so a seed means the same picture on every device, as in diffusers with
`generator=torch.Generator().manual_seed(seed)`. Tensors are drawn as (1, C, H, W), one at a time and in the scheduler's order,
because a generator's next numbers depend on how the earlier ones were drawn. That order is, in diffusers' pipelines:

- from noise: the initial noise, then what the sampler draws, call by call;
- from a picture: first the VAE posterior's noise, if it is sampled (in the VAE's dtype);
- inpainting: as from a picture, and once more the posterior's noise after the initial noise, of the masked picture, which a model
  without inputs for it does not look at.
"""

from collections.abc import Callable

import torch

from collodion.worker.sampling.table import NoiseDtype


def _as_drawn(drawn: torch.Tensor) -> torch.Tensor:
    return drawn


class NoiseSource:
    """Draws standard normal tensors of one shape.

    seed: any integer that torch.Generator takes. shape: (C, H, W) of the latent. model_dtype: what the model
    computes in; the initial latent and most schedulers' noise are drawn in it, and returned as float32. arranged: makes the noise
    of a scheduler that sees latents in another shape, from as many numbers.
    """

    def __init__(
        self,
        seed: int,
        shape: tuple[int, int, int],
        model_dtype: torch.dtype = torch.float32,
        arranged: Callable[[torch.Tensor], torch.Tensor] = _as_drawn,
    ) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._shape = (1, *shape)
        self._model_dtype = model_dtype
        self._arranged = arranged

    def draw(self, dtype: NoiseDtype) -> torch.Tensor:
        """The initial noise ("model"): float32 (C, H, W) on the CPU."""
        return self.normal(self._dtype(dtype))

    def draw_for_sampler(self, dtype: NoiseDtype) -> torch.Tensor:
        """The next draw of a sampler: float32 (C, H, W) on the CPU."""
        return self._arranged(self._numbers(self._dtype(dtype)))[0].float()

    def normal(self, dtype: torch.dtype) -> torch.Tensor:
        """The next draw, standard normal, drawn in `dtype`, as a VAE's posterior is in its own: float32 (C, H, W) on the CPU."""
        return self._numbers(dtype)[0].float()

    def scaled(self, drawn: torch.Tensor, init_noise_sigma: float) -> torch.Tensor:
        """A draw of the model's dtype as the latent to begin with, rounded as StableDiffusionPipeline.prepare_latents does."""
        return (drawn.to(self._model_dtype) * init_noise_sigma).float()

    def export_state(self) -> bytes:
        """The generator's state, about 5 kB."""
        return self._generator.get_state().numpy().tobytes()

    def import_state(self, state: bytes) -> None:
        """Continues from an exported state. Raises RuntimeError if it is not one."""
        self._generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))

    def _dtype(self, dtype: NoiseDtype) -> torch.dtype:
        return self._model_dtype if dtype == "model" else torch.float32

    def _numbers(self, dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(self._shape, generator=self._generator, dtype=dtype)
