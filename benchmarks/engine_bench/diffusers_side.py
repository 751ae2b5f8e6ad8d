"""diffusers' own pipeline, as it comes: eager, one call for a batch, pictures on the host at the end."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas

from collodion.wire.jobs import Parameters
from collodion.worker.registry import configs_of
from collodion.worker.registry.modules import quieten
from collodion.worker.sampling.catalog import flow_matching, samplers_for
from engine_bench.clocks import Clock, Stamps
from engine_bench.drawing import Drawn, nothing
from engine_bench.subjects import Subject

_SPARED = ("safety_checker", "feature_extractor", "image_encoder")


class DiffusersSide:
    """A contestant, see `engine_bench.drawing`."""

    def __init__(self, subject: Subject, dtype: torch.dtype, place: torch.device, clock: Clock) -> None:
        quieten()
        self._subject = subject
        self._place = place
        self._clock = clock
        self.pipeline = _pipeline(subject, subject.parts(subject.source, dtype, place))
        self.pipeline.set_progress_bar_config(disable=True)
        self._own_config = dict(self.pipeline.scheduler.config)

    @property
    def denoiser(self) -> torch.nn.Module:
        """What is called at every step."""
        part: torch.nn.Module = getattr(self.pipeline, self._subject.architecture.denoiser_part)
        return part

    @property
    def weight_bytes(self) -> int:
        """Of all parts."""
        modules = [part for part in self.pipeline.components.values() if isinstance(part, torch.nn.Module)]
        return sum(tensor.nbytes for part in modules for tensor in (*part.parameters(), *part.buffers()))

    def draw(
        self,
        jobs: Sequence[Parameters],
        at_step: Callable[[int], None] = nothing,
        noise: torch.Tensor | None = None,
    ) -> Drawn:
        """See Contestant. noise: float32 (N, C, H, W), to begin with instead of what the seeds say."""
        stamps = Stamps(self._place, self._clock)
        last: dict[str, Any] = {}

        def note(_pipeline: Any, step: int, _timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
            stamps.take()
            last.update(state)
            at_step(step)
            return state

        first = jobs[0]
        self.pipeline.scheduler = self._scheduler(first.sampler)
        asked = self._asked(jobs)
        if noise is not None:
            asked["latents"] = self._as_wanted(noise)
        generators = [torch.Generator().manual_seed(job.seed) for job in jobs]
        drawn = self.pipeline(**asked, generator=generators, output_type="np", callback_on_step_end=note)
        pictures = list((drawn.images * 255).round().astype(np.uint8))
        return Drawn(stamps.seconds(), pictures, lambda: self._unpacked(last["latents"], first))

    def close(self) -> None:
        """Lets go of the model."""
        del self.pipeline

    def _asked(self, jobs: Sequence[Parameters]) -> dict[str, Any]:
        first = jobs[0]
        asked = {
            "prompt": [job.prompt for job in jobs],
            "num_inference_steps": first.steps,
            "width": first.width,
            "height": first.height,
            **_guided(type(self.pipeline).__name__, first, [job.negative_prompt for job in jobs]),
        }
        if type(self.pipeline).__name__ == "ZImagePipeline":  # it passes them as a list, which UniPC cannot multiply
            asked["sigmas"] = np.array(get_default_z_image_sigmas(first.steps))
        return asked

    def _scheduler(self, sampler: str) -> Any:
        entry = samplers_for(self._own_config)[sampler]
        overrides = dict(entry.overrides)
        if overrides.get("use_flow_sigmas") and flow_matching(self._own_config):
            overrides["flow_shift"] = self._own_config["shift"]
        return getattr(diffusers, entry.scheduler).from_config(self._own_config, **overrides)

    def _as_wanted(self, noise: torch.Tensor) -> torch.Tensor:
        """As the pipeline takes latents: FLUX's packed."""
        noise = noise.to(self._place)
        if not hasattr(self.pipeline, "_pack_latents"):
            return noise
        packed: torch.Tensor = self.pipeline._pack_latents(noise, *noise.shape)
        return packed

    def _unpacked(self, latents: torch.Tensor, job: Parameters) -> torch.Tensor:
        if latents.dim() == 3:  # (N, tokens, 4 · C)
            latents = self.pipeline._unpack_latents(latents, job.height, job.width, self.pipeline.vae_scale_factor)
        return latents.reshape(len(latents), -1, *latents.shape[-2:]).float().cpu()


def _guided(pipeline: str, job: Parameters, negatives: list[str]) -> dict[str, Any]:
    """How it is told of guidance: Qwen-Image guides only with a negative prompt, Z-Image counts from 0, FLUX knows no negative ones."""
    scale = job.guidance_scale
    if pipeline == "QwenImagePipeline":
        return {"true_cfg_scale": scale, "negative_prompt": negatives if scale > 1 else None}
    if pipeline == "FluxPipeline":
        return {"guidance_scale": scale}
    if pipeline == "ZImagePipeline":
        return {"guidance_scale": max(0.0, scale - 1), "negative_prompt": negatives}
    return {"guidance_scale": scale, "negative_prompt": negatives}


def _pipeline(subject: Subject, parts: dict[str, Any]) -> Any:
    kind = getattr(diffusers, subject.architecture.pipelines[0])
    accepted = inspect.signature(kind).parameters
    index = configs_of(subject.source)["model_index"]
    options = {name: value for name, value in index.items() if isinstance(value, bool | int | float | str)}
    options |= {"requires_safety_checker": False, "add_watermarker": False}
    without = dict.fromkeys((*kind._optional_components, *subject.architecture.spared, *_SPARED))
    return kind(**{name: value for name, value in {**without, **options, **parts}.items() if name in accepted})
