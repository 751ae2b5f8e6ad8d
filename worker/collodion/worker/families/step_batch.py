"""The latents that run together: what stays the same from step to step, and what goes into their next evaluation.

Everything that an evaluation reads is a tensor with a name, so that it may run through a CUDA graph (`collodion.worker.optimize.ready`):

    state, numbers, noise           see sampling/update.py; these differ from step to step
    source                          int64 (rows,): the slot whose latent a row shows; rows that only fill the call up show the first
    negative, guided, scales        int64, bool, float32 (slots,): the row with a slot's negative prompt, whether it has one, how strong
    guidance                        float32 (rows,)
    text.NAME, channels             with the rows before their own axes
    adapter.SEGMENT.pages, weights  see adapters/selection.py
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from collodion.worker.adapters.adapters import Adapters
from collodion.worker.adapters.selection import Row, Selection
from collodion.worker.families.architecture import Architecture, collate, length, pad
from collodion.worker.families.denoising import Denoising, Evaluation
from collodion.worker.families.device import Device
from collodion.worker.families.evaluation import ADAPTER, TEXT, EvaluationFunction
from collodion.worker.families.optimized import Optimized
from collodion.worker.optimize.ready import STEP, Signature
from collodion.worker.sampling.update import Slots, upload
from collodion.worker.step_cache.reuse import CachedLatent, Reuse, StepCache

_VARYING = ("state", "numbers", "noise")
_HISTORY = 4  # tensors that there is room for in a call whose shapes are fixed: no sampler of ours has more
_RANKS = 16  # of adapters, likewise, unless a row has more
_COMPILED_RANKS = 64  # likewise, where those of more would not find compiled code
_TEXT_MULTIPLE = 64  # tokens, likewise


class StepBatch:
    """Rows of one model call: every latent with its prompt, then the guided ones again with their negative prompt.

    places: where these latents are among all that are stepped. size: rows of the call at least. Raises MemoryError if the adapters of these
    rows do not fit. adapted: as if somebody had adapters.
    """

    def __init__(
        self,
        states: Sequence[Denoising],
        places: Sequence[int],
        size: int,
        device: Device,
        architecture: Architecture,
        adapters: Adapters,
        optimized: Optimized,
        cache: StepCache | None,
        adapted: bool = False,
    ) -> None:
        self.states = states
        self.places = places
        self.reused = 0  # latents that used their deep blocks' output again in the last evaluation
        self._device = device
        self._architecture = architecture
        self._adapters = adapters
        self._ready = ready = optimized.ready
        self._casting = optimized.casting
        self._observer = optimized.observer
        self._cache = cache if any(state.step_cache > 0 for state in states) else None
        self._never = _never(architecture, self._cache)
        # What runs eagerly is not filled up, but for a reproducible worker: there nobody's neighbours may decide what kernels run.
        self._fixed = ready.maker is not None and (not self._never or size > 0)
        texts = [state.conditioning.texts for state in states]
        self.guided = [slot for slot, ours in enumerate(texts) if len(ours) > 1]
        self._order = [*range(len(states)), *self.guided]
        fixed = self._fixed
        self.size = ready.size(max(size, len(self._order))) if fixed else max(size, len(self._order))
        self.slots = Slots([state.trajectory for state in states], self.size if fixed else 0, _HISTORY if fixed else 0)
        rows = [*(ours[0] for ours in texts), *(texts[slot][1] for slot in self.guided)]
        self._lengths = tuple(map(length, rows))
        self._texts = collate(rows, self.size, _TEXT_MULTIPLE if fixed and architecture.any_lengths else 0)
        self._constant: dict[str, torch.Tensor] = dict(self._rows_tensors())
        self._selection = self._select(adapted)
        self._use_selection()

    def evaluate(self) -> Evaluation:
        """The next evaluation, which changes nothing but the noise sources."""
        timesteps = [row.timestep for row in self.slots.rows]
        results, reuses = self._run()
        following = results["following"]
        for slot, state in enumerate(self.states):
            if state.kept is not None:
                row = state.trajectory
                following[0, slot] = state.kept.put_back(following[0, slot], *row.table.levels[row.call + 1])
        lost = results["lost"][: len(self.states)]
        return Evaluation(self.states, following, results["shown"], results["outputs"], lost, timesteps, reuses)

    def take(self, evaluation: Evaluation) -> None:
        """Moves every latent on to what `evaluate` gave. Cannot fail."""
        self.slots.take(evaluation.following)
        for state, reuse in zip(self.states, evaluation.reuses, strict=True):
            state.reuse = reuse
        self.reused = sum(reuse is not None and reuse.in_a_row > 0 for reuse in evaluation.reuses)
        if self.reused:
            self._observer.reused(self.reused)

    def make_ready(self) -> bool:
        """Makes calls of these shapes ready; False if that cannot be."""
        if self._signature is None:
            return False
        tensors = {
            **self._constant,
            "state": self.slots.state(),
            "numbers": upload(self.slots.numbers(), self._device.place),
        }
        tensors["noise"] = torch.zeros_like(tensors["state"][0])
        return self._ready.make(self._signature, self._function, tensors)

    def _run(self) -> tuple[Mapping[str, torch.Tensor], Sequence[Reuse | None]]:
        self._adapters.bank.refresh(self._selection)
        if self._selection.epoch != self._epoch:
            self._use_selection()
        place = self._device.place
        tensors = {**self._constant, "state": self.slots.state(), "numbers": upload(self.slots.numbers(), place)}
        noise = self.slots.noise()
        if noise is not None:
            tensors["noise"] = upload(noise, place)
        nothing = [None] * len(self.states)
        if self._cache is not None:
            return self._with_cache(self._cache, tensors)
        if self._signature is None:
            return self._ready.eagerly(self._never or "whole_adapters", self._function, tensors), nothing
        return self._ready.run(self._signature, self._function, tensors, _VARYING, self._owner), nothing

    def _with_cache(
        self, cache: StepCache, tensors: Mapping[str, torch.Tensor]
    ) -> tuple[Mapping[str, torch.Tensor], Sequence[Reuse | None]]:
        """What runs is decided on the way, by the latent: so it is never captured."""
        reuses: Sequence[Reuse | None] = ()
        latents = [self._cached(slot, state) for slot, state in enumerate(self.states)]

        def run(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
            nonlocal reuses
            predicted, reuses = cache.predict(self._function.rows(tensors), latents, self._around)
            return self._function.finish(tensors, predicted)

        results = self._ready.eagerly(self._never, run, tensors)
        return results, reuses

    def _cached(self, slot: int, state: Denoising) -> CachedLatent:
        rows = (slot,) if slot not in self.guided else (slot, len(self.states) + self.guided.index(slot))
        row = state.trajectory
        return CachedLatent(rows, state.step_cache, state.reuse, may=row.call + 1 < len(row.table))

    @contextmanager
    def _around(self, rows: Sequence[int]) -> Iterator[None]:
        selection = self._selection
        if list(rows) != list(range(self.size)):  # as many may be others: some rows are filled up with the last of them
            uses = [self.states[self._order[row]].conditioning.uses for row in rows]
            selection = self._adapters.select(self._architecture.denoiser_part, uses, len(rows))
        with self._casting(), self._adapters.applied(selection):
            yield

    def _rows_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        slots, rows = self.slots.slots, self.size
        to_device = self._device.to_device
        yield "source", to_device(torch.tensor([*self._order, *[0] * (rows - len(self._order))], dtype=torch.int64))
        scales = torch.tensor([state.guidance_scale for state in self.states], dtype=torch.float32)
        yield "guidance", to_device(pad(scales[self._order], rows))
        if self.guided or self._fixed:
            negative = torch.zeros(slots, dtype=torch.int64)
            guided = torch.zeros(slots, dtype=torch.bool)
            guided[self.guided] = True
            negative[self.guided] = torch.arange(len(self.states), len(self._order))
            yield "negative", to_device(negative)
            yield "guided", to_device(guided[:, None, None, None])
            yield "scales", to_device(pad(scales, slots)[:, None, None, None])
        for name, tensor in self._texts.items():
            yield f"{TEXT}{name}", tensor
        channels = [self.states[slot].channels for slot in self._order]
        present = [one for one in channels if one is not None]
        if present:
            yield "channels", pad(torch.stack(present), rows)

    def _select(self, adapted: bool) -> Selection:
        uses: list[Row] = [self.states[slot].conditioning.uses for slot in self._order]
        compiled = self._adapters.bank.fixed(self._architecture.denoiser_part)
        ranks = 0
        if self._fixed and (adapted or any(uses)):
            ranks = _COMPILED_RANKS if compiled else _RANKS
        return self._adapters.select(self._architecture.denoiser_part, uses, self.size, ranks)

    def _use_selection(self) -> None:
        """After the bank has moved what the rows read."""
        self._epoch = self._selection.epoch
        self._owner = _Owner()
        tensors = self._selection.tensors() if self._fixed else None
        depends_on: Hashable = None
        self._function = EvaluationFunction(
            self._architecture,
            self._adapters,
            self._selection.bound(tensors) if tensors else self._selection,
            self._casting,
            self._lengths,
            self._device.dtype,
        )
        self._signature = None
        if tensors is not None and not self._never:
            self._constant |= {f"{ADAPTER}{name}": tensor for name, tensor in tensors.items()}
            if tensors:
                moves = depends_on = self._adapters.bank.moves
                self._ready.forget(STEP, lambda captured: captured not in (None, moves))
            shapes = self._shapes()
            self._signature = Signature.of(STEP, depends_on, shapes, self._compiled(shapes))

    def _compiled(self, shapes: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Of these, what compiled blocks may depend on: adapters of modules between them are none of their business."""
        fixed = tuple(f"{ADAPTER}{segment}." for segment in self._adapters.bank.fixed(self._architecture.denoiser_part))
        return {name: one for name, one in shapes.items() if not name.startswith(ADAPTER) or name.startswith(fixed)}

    def _shapes(self) -> dict[str, torch.Tensor]:
        """Of a call in which noise is drawn, whether or not it is."""
        state, numbers = self.slots.state(), self.slots.numbers()
        return {**self._constant, "state": state, "numbers": numbers, "noise": state[0]}


def _never(architecture: Architecture, cache: StepCache | None) -> str:
    """Why such calls are never made ready, for the observer; "" if they are, should their adapters permit it."""
    if cache is not None:
        return "step_cache"
    return "ragged_texts" if architecture.ragged else ""


class _Owner:
    """A batch, as long as its constant tensors are the same."""


@contextmanager
def undrawn_if_it_fails(states: Sequence[Denoising]) -> Iterator[None]:
    """If it raises, what was drawn for these latents will be drawn again."""
    rows = [state.trajectory for state in states]
    before = [(row.noise, row.noise.export_state()) for row in rows if row.table.draws[row.call] is not None]
    try:
        yield
    except BaseException:
        for source, drawn in before:
            source.import_state(drawn)
        raise
