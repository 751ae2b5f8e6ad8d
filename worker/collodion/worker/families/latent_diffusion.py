"""Latent diffusion models, whatever their architecture: diffusers' own components, with our loop around them.

Reference: diffusers' pipeline of the architecture, with the same seed (CPU generator), sampler, steps, guidance scale and negative prompt.

1. What architectures do differently is in `Architecture`; what they share is here.
2. Latents and everything that a sampler does are float32; the model gets its own dtype.
3. Reproducible: encode, step and decode batches are padded with zeros to one size each, so that the kernels that run, and with
   them the rounding of a row, are the same whatever runs beside it. Latents whose prompts have different lengths, or that have
   different adapters, are then in different model calls.
"""

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

import torch
from msgspec.structs import replace

from collodion.wire.jobs import ModelInfo, Optimization, Parameters
from collodion.worker.adapters.adapters import AdapterBudgets, Adapters
from collodion.worker.config import WorkerConfig
from collodion.worker.families.adapter_files import AdapterFiles
from collodion.worker.families.architecture import Architecture
from collodion.worker.families.clean_estimate import CleanEstimate
from collodion.worker.families.decoding import Decoder
from collodion.worker.families.denoising import Conditioning, Denoising, Evaluation, SamplingPlan
from collodion.worker.families.device import Device
from collodion.worker.families.encoding import PromptEncoder
from collodion.worker.families.job_reader import JobReader
from collodion.worker.families.optimized import Optimized
from collodion.worker.families.rehearsal import Rehearsal
from collodion.worker.families.rgb_map import fit_rgb_map, to_rgb
from collodion.worker.families.start import Start, beginning
from collodion.worker.families.step_batch import StepBatch, undrawn_if_it_fails
from collodion.worker.families.text_cache import TextCache
from collodion.worker.memory_errors import memory_errors
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.ready import STEP
from collodion.worker.optimize.wishes import Switch
from collodion.worker.pipeline import Decoded, Encoded, Picture, Stepped
from collodion.worker.sampling.noise import NoiseSource
from collodion.worker.sampling.trajectory import Trajectory
from collodion.worker.sampling.update import model_inputs
from collodion.worker.step_cache.reuse import StepCache
from collodion.worker.uploads import Uploads
from collodion.worker.weights import stored_bytes

_STEP_CACHE = Optimization("step_cache", "on", "by the latent, where a request asks for it")
_log = logging.getLogger(__name__)


class LatentDiffusion:
    """See the module, and Pipeline for what each method promises."""

    def __init__(
        self,
        architecture: Architecture,
        info: ModelInfo,
        config: WorkerConfig,
        device: Device,
        uploads: Uploads,
        adapter_files: AdapterFiles,
        optimized: Optimized,
    ) -> None:
        self.info = info
        self._optimized = optimized
        components = {name: getattr(architecture.pipeline, name) for name in _adapted(architecture)}
        budgets = AdapterBudgets(config.adapters_mib << 20, config.adapters_host_mib << 20)
        self._adapters = Adapters(components, budgets, architecture.unadapted, every_row=config.reproducible)
        optimized.finish(self._adapters)
        self._reader = JobReader(architecture, self._adapters, adapter_files, uploads)
        self.run_ahead = device.run_ahead
        self._architecture = architecture
        self._vae = architecture.vae
        self._device = device
        self._rgb_map = fit_rgb_map(architecture.vae)
        padded = config.reproducible
        self._step_rows = 2 * config.max_batch if padded else 0
        self._encoder = PromptEncoder(
            architecture,
            self._adapters,
            optimized.modules,
            2 * config.encode_batch if padded else 0,
            TextCache(config.text_cache_mib << 20, optimized.observer.read),
        )
        self._decoder = Decoder(
            architecture.vae,
            device,
            optimized.plan,
            config.decode_batch if padded else 0,
            config.decode_slowdown,
            optimized.observer.squeezed,
        )
        self._cache = self._step_cache(architecture)
        self._rehearsal = Rehearsal(info, config, optimized)
        self._clean_estimate = CleanEstimate(architecture.pipeline.scheduler)
        self._batches: list[StepBatch] = []
        self._stepped: list[Denoising] = []
        self._last: tuple[Evaluation, ...] = ()

    @property
    def optimizations(self) -> tuple[Optimization, ...]:
        """See Pipeline."""
        cached = () if self._cache is None else (_STEP_CACHE,)
        return (*self._optimized.report, *cached, *self._decoder.optimizations)

    @property
    def weight_bytes(self) -> int:
        """See Pipeline."""
        tensors = (tensor for part in self._modules() for tensor in (*part.parameters(), *part.buffers()))
        return sum(map(stored_bytes, tensors))

    def close(self) -> None:
        """See Pipeline."""
        self._forget()
        self._optimized.ready.clear()
        self._adapters.close()
        # One module after the other: freed all at once, by one statement, they would hold up the device's thread for as long.
        for part in self._modules():
            for module in list(part.modules()):
                module._parameters.clear()
                module._buffers.clear()
        # Who still has this pipeline has nothing of the model.
        del self._architecture, self._vae, self._reader, self._adapters, self._encoder, self._decoder
        if self._device.place.type == "cuda":
            torch.cuda.empty_cache()

    def prepare(self, parameters: Parameters) -> SamplingPlan:
        """See Pipeline."""
        return self._reader.plan(parameters)

    @torch.inference_mode()
    def encode(self, plans: Sequence[SamplingPlan]) -> Encoded[Conditioning]:
        """See Pipeline."""
        different = list(dict.fromkeys(prompt for plan in plans for prompt in plan.prompts))
        # What all jobs have in common, such as their negative prompt, is nearly always known, and no job takes less time than usual for it.
        whole = not any(all(map(self._encoder.cache.knows, plan.prompts)) for plan in plans)
        with self._device.span() as span, memory_errors():
            texts = self._encoder.encode(different)
            conditioning = [
                Conditioning(
                    [texts[prompt] for prompt in plan.prompts],
                    None if plan.scene is None else Start.encoded(plan.scene, self._vae, self._device.place),
                    plan.uses,
                )
                for plan in plans
            ]
        return Encoded(span, conditioning, whole)

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
            threshold = parameters.step_cache if self.info.step_cache else 0.0
            state = Denoising(trajectory, conditioning, parameters.guidance_scale, drawn.kept, channels, threshold)
            conditioning.readers.add(state)
        return state

    @torch.inference_mode()
    def step(self, states: Sequence[Denoising]) -> Stepped:
        """See Pipeline."""
        with self._device.span() as span, self._short_of_memory(), memory_errors():
            batches = self._batches_of(states)
            with undrawn_if_it_fails(states):
                evaluations = [batch.evaluate() for batch in batches]
                lost = [self._device.to_host(one.lost) for one in evaluations]
        for batch, one in zip(batches, evaluations, strict=True):
            batch.take(one)
        kind = tuple(
            (one.inputs.shape, batch.size, batch.reused) for batch, one in zip(batches, evaluations, strict=True)
        )
        self._decoder.stepped(kind, span)
        self._last = tuple(evaluations)
        return Stepped(span, lambda: _places_of(batches, lost), whole=not any(batch.reused for batch in batches))

    @torch.inference_mode()
    def decode(self, states: Sequence[Denoising]) -> Decoded:
        """See Pipeline."""
        decoded = self._decoder.decode([state.trajectory.latent for state in states])
        if any(state in self._stepped for state in states):
            self._forget()
        return decoded

    @torch.inference_mode()
    def make_ready(self, progress: Callable[[float], None] = lambda _: None) -> None:
        """Compiles or captures what was planned, before anything else is asked of the pipeline; see Rehearsal."""
        self._rehearsal.run(self, progress)

    def batch_of(self, state: Denoising, rows: int, adapted: bool) -> StepBatch:
        """See Performer."""
        return self._batch([state], [0], rows, adapted)

    def forget_texts(self) -> None:
        """See Performer."""
        self._encoder.cache.clear()

    @torch.inference_mode()
    def tidy(self) -> bool:
        """See Pipeline."""
        ready, moves = self._optimized.ready, self._adapters.bank.moves
        ready.forget(
            STEP, lambda wished: wished not in (None, moves)
        )  # the pools that it would read may be closed by now
        return ready.tidy()

    @torch.inference_mode()
    def park(self, state: Denoising) -> None:
        """See Pipeline."""
        state.reuse = None
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
        last = next((one for one in self._last if state in one.states), None)
        if last is None:
            return model_inputs([state.trajectory])[0]
        row = last.states.index(state)
        return self._clean_estimate(last.inputs[row], last.outputs[row], last.timesteps[row])

    @torch.inference_mode()
    def preview(self, snapshot: torch.Tensor) -> Picture:
        """See Pipeline. On a GPU this thread waits for what was queued before, and no other one does."""
        return to_rgb(snapshot.cpu(), self._rgb_map)

    def _modules(self) -> list[torch.nn.Module]:
        return [part for part in self._architecture.pipeline.components.values() if isinstance(part, torch.nn.Module)]

    @contextmanager
    def _short_of_memory(self) -> Iterator[None]:
        """What was captured makes room for those who draw: the engine tries again, with fewer rows."""
        try:
            yield
        except MemoryError:
            self._optimized.ready.release()
            raise

    def _forget(self) -> None:
        """Lets go of the last step batch: some of its latents are finished, and may be the last ones of this model for long."""
        self._last = ()
        self._batches, self._stepped = [], []

    def _batches_of(self, states: Sequence[Denoising]) -> list[StepBatch]:
        """One, but for a reproducible worker: there who is in a call must not change what kernels run."""
        if self._stepped != states:
            groups: dict[Hashable, list[int]] = {}
            for place, state in enumerate(states):
                groups.setdefault(self._group_of(state), []).append(place)
            self._batches = [
                self._batch([states[place] for place in places], places, self._step_rows) for places in groups.values()
            ]
            self._stepped = list(states)
        return self._batches

    def _group_of(self, state: Denoising) -> Hashable:
        """What states have in common that share a call."""
        if self._step_rows:
            return state.conditioning.form
        return None if self._optimized.takes_masks else state.conditioning.text_shapes

    def _batch(self, states: Sequence[Denoising], places: Sequence[int], size: int, adapted: bool = False) -> StepBatch:
        parts = self._device, self._architecture, self._adapters, self._optimized, self._cache
        return StepBatch(states, places, size, *parts, adapted)

    def _step_cache(self, architecture: Architecture) -> StepCache | None:
        """None if the plan wants none, or the denoiser is one of its architecture that cannot be cut. Raises Unsuitable for one that was to
        be."""
        try:
            return StepCache(architecture, self._padded) if self.info.step_cache else None
        except Unsuitable as unsuitable:
            if self._optimized.plan.step_cache is Switch.ON:
                raise Unsuitable(f"step_cache=on: {unsuitable.reason}") from unsuitable
            _log.warning("no step cache", extra={"model": self.info.name, "reason": unsuitable.reason})
            self.info = replace(self.info, step_cache=False)
            return None

    def _padded(self, rows: int) -> int:
        """How many rows a call of the deep part has that is to have so many: nothing of a step cache's is compiled."""
        return self._optimized.ready.size(self._step_rows) if self._step_rows else rows


def _adapted(architecture: Architecture) -> tuple[str, ...]:
    return (architecture.denoiser_part, *architecture.text_encoders)


def _places_of(batches: Sequence[StepBatch], lost: Sequence[torch.Tensor]) -> list[int]:
    """The places of those that are lost."""
    return [
        place
        for batch, ours in zip(batches, lost, strict=True)
        for place, bad in zip(batch.places, ours, strict=True)
        if bad
    ]
