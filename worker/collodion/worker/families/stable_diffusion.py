"""Stable Diffusion 1.x and 2.x: diffusers' own components, with our loop around them.

Reference: StableDiffusionPipeline with the same seed (CPU generator), sampler, steps, guidance scale and negative prompt.

1. Rows of a model call: every latent with its prompt, then the guided ones again with their negative prompt.
2. Latents and everything that a sampler does are float32; the model gets its own dtype.
3. Reproducible: encode, step and decode batches are padded with zeros to one size each, so that the kernels that run, and with
   them the rounding of a row, are the same whatever runs beside it.
"""

from collections.abc import Sequence
from typing import Any

import torch

from collodion.wire.jobs import Failure, ModelInfo, Parameters, Reason
from collodion.worker.config import WorkerConfig
from collodion.worker.families.clean_estimate import CleanEstimate
from collodion.worker.families.denoising import Conditioning, Denoising, Evaluation, SamplingPlan
from collodion.worker.families.device import Device, memory_errors
from collodion.worker.families.rgb_map import fit_rgb_map, to_rgb
from collodion.worker.families.step_batch import StepBatch, pad
from collodion.worker.families.text_window import TextWindow
from collodion.worker.pipeline import Decoded, Encoded, LatentRefused, Picture, Stepped
from collodion.worker.sampling.catalog import SamplerRefused
from collodion.worker.sampling.probing import probe
from collodion.worker.sampling.trajectory import Trajectory
from collodion.worker.sampling.update import advance, model_inputs


class StableDiffusion:
    """See the module, and Pipeline for what each method promises. `pipeline`: a StableDiffusionPipeline on the device."""

    def __init__(self, pipeline: Any, info: ModelInfo, config: WorkerConfig, device: Device) -> None:
        self.info = info
        self.run_ahead = device.run_ahead
        self._pipeline = pipeline
        self._device = device
        self._scheduler_config = pipeline.scheduler.config
        self._window = TextWindow(pipeline.tokenizer)
        self._rgb_map = fit_rgb_map(pipeline.vae, pipeline.vae_scale_factor)
        padded = config.reproducible
        self._encode_rows = 2 * config.encode_batch if padded else 0
        self._step_rows = 2 * config.max_batch if padded else 0
        self._decode_rows = config.decode_batch if padded else 0
        self._clean_estimate = CleanEstimate(pipeline.scheduler)
        self._batch: StepBatch | None = None
        self._last: Evaluation | None = None

    def prepare(self, parameters: Parameters) -> SamplingPlan:
        """See Pipeline."""
        try:
            table = probe(parameters.sampler, parameters.steps, self._scheduler_config)
        except SamplerRefused as refused:
            raise LatentRefused(Failure(reason=Reason.SAMPLER_REFUSED, message=refused.reason)) from refused
        prompts = {"prompt": parameters.prompt}
        if parameters.guided:
            prompts["negative prompt"] = parameters.negative_prompt
        warnings = [
            ("PROMPT_TRUNCATED", cut) for what, text in prompts.items() if (cut := self._window.cut(what, text))
        ]
        return SamplingPlan(parameters, (*table.step_of, table.steps), tuple(warnings), table=table)

    @torch.inference_mode()
    def encode(self, plans: Sequence[SamplingPlan]) -> Encoded[Conditioning]:
        """See Pipeline."""
        jobs = [plan.parameters for plan in plans]
        texts = [job.prompt for job in jobs] + [job.negative_prompt for job in jobs if job.guided]
        different = dict.fromkeys(texts)
        with self._device.span() as span, memory_errors():
            padding = [""] * (self._encode_rows - len(different))
            encoded, _ = self._pipeline.encode_prompt([*different, *padding], self._device.place, 1, False)
            states = dict(zip(different, encoded, strict=False))
            # Copies: a view of the batch would keep all of it in memory until the last of its jobs is gone.
            conditioning = [
                Conditioning(states[job.prompt].clone(), states[job.negative_prompt].clone() if job.guided else None)
                for job in jobs
            ]
        return Encoded(span, conditioning)

    @torch.inference_mode()
    def begin(self, plan: SamplingPlan, conditioning: Conditioning, seed: int) -> Denoising:
        """See Pipeline."""
        shape = self._shape_of(plan.parameters)
        with memory_errors():
            trajectory = Trajectory.begin(plan.table, seed, shape, self._device.place, self._device.dtype)
            state = Denoising(trajectory, conditioning, plan.parameters.guidance_scale)
            self._read(state)
        return state

    @torch.inference_mode()
    def step(self, states: Sequence[Denoising]) -> Stepped:
        """See Pipeline."""
        with self._device.span() as span, memory_errors():
            batch = self._batch_of(states)
            inputs = model_inputs(batch.trajectories)
            outputs = self._evaluate(batch, inputs)
            last = Evaluation(states, inputs, outputs, [row.timestep for row in batch.trajectories])
            # One reduction for the batch: a sum is finite only if everything in it is.
            lost = self._device.to_host(~outputs.sum(dim=(1, 2, 3)).isfinite())
            _advance_or_restore(batch.trajectories, outputs)
        self._last = last
        return Stepped(span, lambda: lost.nonzero().flatten().tolist())

    @torch.inference_mode()
    def decode(self, states: Sequence[Denoising]) -> Decoded:
        """See Pipeline."""
        vae = self._pipeline.vae
        with self._device.span() as span, memory_errors():
            latents = pad(torch.stack([state.trajectory.latent for state in states]), self._decode_rows).to(vae.dtype)
            decoded = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0][: len(states)]
            lost = self._device.to_host(~decoded.float().sum(dim=(1, 2, 3)).isfinite())
            pixels = self._pipeline.image_processor.postprocess(decoded, output_type="pt").float()
            pictures = self._device.to_host((pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous())
        return Decoded(
            span, lambda: [None if bad else picture.numpy() for bad, picture in zip(lost, pictures, strict=True)]
        )

    @torch.inference_mode()
    def park(self, state: Denoising) -> None:
        """See Pipeline."""
        with memory_errors():
            state.trajectory.compact()

    def state_bytes(self, state: Denoising) -> int:
        """See Pipeline."""
        return state.trajectory.state.nbytes + state.conditioning.nbytes

    @torch.inference_mode()
    def spill(self, state: Denoising) -> None:
        """See Pipeline. The prompts go with the last of their job's latents."""
        readers = state.conditioning.readers
        with memory_errors():
            spilled = self._device.to_host(state.trajectory.state)
            if len(readers) == 1:
                state.conditioning.move(self._device.to_host)
        readers.discard(state)
        state.trajectory.state = spilled

    @torch.inference_mode()
    def recall(self, state: Denoising) -> None:
        """See Pipeline."""
        with memory_errors():
            recalled = self._device.to_device(state.trajectory.state)
            self._read(state)
        state.trajectory.state = recalled

    @torch.inference_mode()
    def snapshot(self, state: Denoising) -> torch.Tensor:
        """See Pipeline: what the last model call believed the finished latent to be, or the latent if it was not in it."""
        last = self._last
        if last is None or state not in last.states:
            return model_inputs([state.trajectory])[0]
        row = last.states.index(state)
        return self._clean_estimate(last.inputs[row], last.outputs[row], last.timesteps[row])

    @torch.inference_mode()
    def preview(self, snapshot: torch.Tensor) -> Picture:
        """See Pipeline. On a GPU this thread waits for what was queued before, and no other one does."""
        return to_rgb(snapshot.cpu(), self._rgb_map)

    def _read(self, state: Denoising) -> None:
        state.conditioning.move(self._device.to_device)
        state.conditioning.readers.add(state)

    def _shape_of(self, parameters: Parameters) -> tuple[int, int, int]:
        """(C, H, W) of a job's latents."""
        factor = self._pipeline.vae_scale_factor
        return self._pipeline.unet.config.in_channels, parameters.height // factor, parameters.width // factor

    def _batch_of(self, states: Sequence[Denoising]) -> StepBatch:
        if self._batch is None or self._batch.states != states:
            self._batch = StepBatch(list(states), self._step_rows, self._device)
        return self._batch

    def _evaluate(self, batch: StepBatch, latents: torch.Tensor) -> torch.Tensor:
        """The model's output after guidance: float32 (latents, C, H, W), as the scaled latents that go in."""
        inputs = pad(torch.cat([latents, latents[batch.guided]]), batch.size).to(self._device.dtype)
        timesteps = batch.timesteps().to(self._device.place, non_blocking=True)
        predicted = self._pipeline.unet(inputs, timesteps, encoder_hidden_states=batch.texts, return_dict=False)[
            0
        ].float()
        return batch.guide(predicted)


def _advance_or_restore(rows: list[Trajectory], outputs: torch.Tensor) -> None:
    """`advance`, all or nothing: if memory ends in the middle of it, no row has moved and no noise is spent."""
    before = [(row, row.state, row.call, _noise_state(row)) for row in rows]
    try:
        advance(rows, outputs)
    except BaseException:
        for row, state, call, noise in before:
            row.state, row.call = state, call
            if noise is not None:
                row.noise.import_state(noise)
        raise


def _noise_state(row: Trajectory) -> bytes | None:
    return None if row.table.draws[row.call] is None else row.noise.export_state()
