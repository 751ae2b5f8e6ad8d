"""Latent diffusion models, whatever their architecture: diffusers' own components, with our loop around them.

Reference: diffusers' pipeline of the architecture, with the same seed (CPU generator), sampler, steps, guidance scale and negative prompt.

1. What architectures do differently is in `Architecture`; what they share is here.
2. Latents and everything that a sampler does are float32; the model gets its own dtype.
3. Reproducible: encode, step and decode batches are padded with zeros to one size each, so that the kernels that run, and with
   them the rounding of a row, are the same whatever runs beside it. Latents whose prompts have different lengths, or that have
   different adapters, are then in different model calls.
"""

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch

from collodion.wire.jobs import ModelInfo, Optimization, Parameters
from collodion.worker.adapters.adapters import AdapterBudgets, Adapters
from collodion.worker.config import WorkerConfig
from collodion.worker.families.adapter_files import AdapterFiles
from collodion.worker.families.architecture import Architecture, Prompt, Texts, pad
from collodion.worker.families.clean_estimate import CleanEstimate
from collodion.worker.families.denoising import Conditioning, Denoising, Evaluation, SamplingPlan
from collodion.worker.families.device import Device, memory_errors
from collodion.worker.families.job_reader import JobReader
from collodion.worker.families.rgb_map import fit_rgb_map, to_rgb
from collodion.worker.families.start import Kept, Start, beginning
from collodion.worker.families.step_batch import StepBatch
from collodion.worker.pipeline import Decoded, Encoded, Picture, Stepped
from collodion.worker.sampling.noise import NoiseSource
from collodion.worker.sampling.trajectory import Trajectory
from collodion.worker.sampling.update import advance, model_inputs
from collodion.worker.uploads import Uploads


class LatentDiffusion:
    """See the module, and Pipeline for what each method promises."""

    optimizations: tuple[Optimization, ...] = ()

    def __init__(
        self,
        architecture: Architecture,
        info: ModelInfo,
        config: WorkerConfig,
        device: Device,
        uploads: Uploads,
        adapter_files: AdapterFiles,
    ) -> None:
        self.info = info
        components = {name: getattr(architecture.pipeline, name) for name in _adapted(architecture)}
        budgets = AdapterBudgets(config.adapters_mib << 20, config.adapters_host_mib << 20)
        self._adapters = Adapters(components, budgets, architecture.unadapted, every_row=config.reproducible)
        self._reader = JobReader(architecture, self._adapters, adapter_files, uploads)
        self.run_ahead = device.run_ahead
        self._architecture = architecture
        self._vae = architecture.vae
        self._device = device
        self._rgb_map = fit_rgb_map(architecture.vae)
        padded = config.reproducible
        self._encode_rows = 2 * config.encode_batch if padded else 0
        self._step_rows = 2 * config.max_batch if padded else 0
        self._decode_rows = config.decode_batch if padded else 0
        self._clean_estimate = CleanEstimate(architecture.pipeline.scheduler)
        self._batches: list[StepBatch] = []
        self._stepped: list[Denoising] = []
        self._last: Evaluation | None = None

    @property
    def weight_bytes(self) -> int:
        """See Pipeline."""
        return sum(tensor.nbytes for part in self._modules() for tensor in (*part.parameters(), *part.buffers()))

    def close(self) -> None:
        """See Pipeline."""
        self._forget()
        self._adapters.close()
        # One module after the other: freed all at once, by one statement, they would hold up the device's thread for as long.
        for part in self._modules():
            for module in list(part.modules()):
                module._parameters.clear()
                module._buffers.clear()
        del (
            self._architecture,
            self._vae,
            self._reader,
            self._adapters,
        )  # who still has this pipeline has nothing of the model
        if self._device.place.type == "cuda":
            torch.cuda.empty_cache()

    def prepare(self, parameters: Parameters) -> SamplingPlan:
        """See Pipeline."""
        return self._reader.plan(parameters)

    @torch.inference_mode()
    def encode(self, plans: Sequence[SamplingPlan]) -> Encoded[Conditioning]:
        """See Pipeline."""
        different = list(dict.fromkeys(prompt for plan in plans for prompt in plan.prompts))
        with self._device.span() as span, memory_errors():
            texts = self._texts_of(different)
            conditioning = [
                Conditioning(
                    [_own(texts[prompt]) for prompt in plan.prompts],
                    None if plan.scene is None else Start.encoded(plan.scene, self._vae, self._device.place),
                    plan.uses,
                )
                for plan in plans
            ]
        return Encoded(span, conditioning)

    @torch.inference_mode()
    def begin(self, plan: SamplingPlan, conditioning: Conditioning, seed: int) -> Denoising:
        """See Pipeline."""
        parameters = plan.parameters
        shape = self._architecture.latent_shape(parameters.width, parameters.height)
        with memory_errors():
            conditioning.move(self._device.to_device)  # it lies on the host if all that began before have been spilled
            dtype = self._architecture.noise_dtype or self._device.dtype
            noise = NoiseSource(seed, shape, dtype, self._architecture.sampler_noise)
            drawn = beginning(conditioning.start, parameters.strength, self._vae, noise, self._architecture.sees_masks)
            trajectory = Trajectory.begin_from(plan.table, noise, drawn.noise, drawn.clean, self._device.place)
            channels = None if drawn.channels is None else drawn.channels.to(self._device.dtype)
            state = Denoising(trajectory, conditioning, parameters.guidance_scale, drawn.kept, channels)
            conditioning.readers.add(state)
        return state

    @torch.inference_mode()
    def step(self, states: Sequence[Denoising]) -> Stepped:
        """See Pipeline."""
        with self._device.span() as span, memory_errors():
            rows = [state.trajectory for state in states]
            inputs = model_inputs(rows)
            outputs = torch.empty_like(inputs)
            for batch in self._batches_of(states):
                outputs[batch.places] = self._evaluate(batch, inputs)
            last = Evaluation(states, inputs, outputs, [row.timestep for row in rows])
            # One reduction for the batch: a sum is finite only if everything in it is.
            lost = self._device.to_host(~outputs.sum(dim=(1, 2, 3)).isfinite())
            _advance_or_restore(states, outputs)
        self._last = last
        return Stepped(span, lambda: lost.nonzero().flatten().tolist())

    @torch.inference_mode()
    def decode(self, states: Sequence[Denoising]) -> Decoded:
        """See Pipeline."""
        with self._device.span() as span, memory_errors():
            latents = pad(torch.stack([state.trajectory.latent for state in states]), self._decode_rows)
            decoded = self._vae.decode(latents)[: len(states)]
            lost = self._device.to_host(~decoded.float().sum(dim=(1, 2, 3)).isfinite())
            pictures = self._device.to_host(self._vae.pixels(decoded))
        if any(state in self._stepped for state in states):
            self._forget()
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
        return state.nbytes + state.conditioning.nbytes

    @torch.inference_mode()
    def spill(self, state: Denoising) -> None:
        """See Pipeline. The prompts go with the last of their job's latents."""
        readers = state.conditioning.readers
        with memory_errors():
            if len(readers) == 1:
                state.conditioning.move(self._device.to_host)
            state.move(self._device.to_host)
        readers.discard(state)

    @torch.inference_mode()
    def recall(self, state: Denoising) -> None:
        """See Pipeline."""
        with memory_errors():
            state.move(self._device.to_device)
            state.conditioning.move(self._device.to_device)
        state.conditioning.readers.add(state)

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

    def _texts_of(self, prompts: Sequence[Prompt]) -> dict[Prompt, Texts]:
        """Reproducible: those with the same adapters by themselves, as for the steps."""
        groups: dict[Hashable, list[Prompt]] = {}
        for prompt in prompts:
            groups.setdefault(prompt.key if self._encode_rows else None, []).append(prompt)
        texts: dict[Prompt, Texts] = {}
        for group in groups.values():
            encoded = self._architecture.encode_prompts(group, partial(self._around, group), self._encode_rows)
            texts.update(zip(group, encoded, strict=True))
        return texts

    def _around(
        self, prompts: Sequence[Prompt], encoders: Sequence[int], rows: Sequence[int]
    ) -> AbstractContextManager[object]:
        """See Around. Rows of no prompt have some adapters too, so that what is computed does not depend on how many there are."""
        uses = [prompts[max(row, 0)].uses for row in rows]
        components = [self._architecture.text_encoders[encoder] for encoder in encoders]
        selections = [self._adapters.select(component, uses, len(rows)) for component in components]
        bank = self._adapters.bank
        for selection in selections:
            bank.refresh(selection)  # room for one may have been made by moving another's
        if any(selection.epoch != bank.epoch for selection in selections):
            raise MemoryError("the adapters of the text encoders do not fit side by side")
        return self._adapters.applied(*selections)

    def _modules(self) -> list[torch.nn.Module]:
        return [part for part in self._architecture.pipeline.components.values() if isinstance(part, torch.nn.Module)]

    def _forget(self) -> None:
        """Lets go of the last step batch: some of its latents are finished, and may be the last ones of this model for long."""
        self._last = None
        self._batches, self._stepped = [], []

    def _batches_of(self, states: Sequence[Denoising]) -> list[StepBatch]:
        """One, but for a reproducible worker: there who is in a call must not change what kernels run."""
        if self._stepped != states:
            forms: dict[Hashable, list[int]] = {}
            for place, state in enumerate(states):
                forms.setdefault(state.conditioning.form if self._step_rows else None, []).append(place)
            select = partial(self._adapters.select, self._architecture.denoiser_part)
            self._batches = [
                StepBatch([states[place] for place in places], places, self._step_rows, self._device, select)
                for places in forms.values()
            ]
            self._stepped = list(states)
        return self._batches

    def _evaluate(self, batch: StepBatch, inputs: torch.Tensor) -> torch.Tensor:
        """The model's output after guidance. inputs: of all latents that are stepped. Returns float32 (latents of the batch, C, H, W)."""
        mine = inputs if len(batch.states) == len(inputs) else inputs[batch.places]
        with self._adapters.applied(batch.selection):
            predicted = self._architecture.predict(batch.rows(mine)).float()
        return batch.guide(predicted, self._architecture.guide)


def _adapted(architecture: Architecture) -> tuple[str, ...]:
    return (architecture.denoiser_part, *architecture.text_encoders)


def _own(texts: Texts) -> Texts:
    """Copies: a view of the batch would keep all of it in memory until the last of its jobs is gone."""
    return {name: tensor.clone() for name, tensor in texts.items()}


def _advance_or_restore(states: Sequence[Denoising], outputs: torch.Tensor) -> None:
    """`advance`, all or nothing: if memory ends in the middle of it, no row has moved and no noise is spent."""
    rows = [state.trajectory for state in states]
    before = [(row, row.state, row.call, _noise_state(row)) for row in rows]
    try:
        advance(rows, outputs)
        for state in states:
            if state.kept is not None:
                _put_back(state.kept, state.trajectory)
    except BaseException:
        for row, tensors, call, noise in before:
            row.state, row.call = tensors, call
            if noise is not None:
                row.noise.import_state(noise)
        raise


def _put_back(kept: Kept, row: Trajectory) -> None:
    row.state[0] = kept.put_back(row.latent, *row.table.levels[row.call])


def _noise_state(row: Trajectory) -> bytes | None:
    return None if row.table.draws[row.call] is None else row.noise.export_state()
