"""What is compiled or captured when a model is loaded: calls of every kind that it may be asked for, of jobs that nobody sent.

All numbers of rows and all sizes of pictures that the plan names; whatever else comes is made ready later, or never (`ready`).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from collodion.wire.jobs import ModelInfo, Parameters
from collodion.worker.config import WorkerConfig
from collodion.worker.families.denoising import Conditioning, Denoising, SamplingPlan
from collodion.worker.families.optimized import Optimized
from collodion.worker.families.step_batch import StepBatch
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.wishes import Compilation
from collodion.worker.pipeline import Decoded, Encoded


class Performer(Protocol):
    """A model, as it is rehearsed with; see Pipeline."""

    def prepare(self, parameters: Parameters) -> SamplingPlan: ...  # noqa: D102 - see Pipeline

    def encode(self, plans: Sequence[SamplingPlan]) -> Encoded[Conditioning]: ...  # noqa: D102

    def begin(self, plan: SamplingPlan, conditioning: Conditioning, seed: int) -> Denoising: ...  # noqa: D102

    def decode(self, states: Sequence[Denoising]) -> Decoded: ...  # noqa: D102

    def batch_of(self, state: Denoising, rows: int, adapted: bool) -> StepBatch:
        """A call of so many rows, whose first shows this latent. adapted: as if somebody had adapters."""

    def forget_texts(self) -> None:
        """The next prompts are encoded, whether or not they were before."""


class Rehearsal:
    """Of one model, on the thread that loads."""

    def __init__(self, info: ModelInfo, config: WorkerConfig, optimized: Optimized) -> None:
        self._info = info
        self._config = config
        self._optimized = optimized

    def run(self, model: Performer, progress: Callable[[float], None]) -> None:
        """Makes it ready, if anything is to be. progress: from 0 to 1. Raises Unsuitable if code was to be compiled and none can be."""
        ready, plan = self._optimized.ready, self._optimized.plan
        if ready.maker is None:
            return
        sizes = plan.sizes or ((self._info.native_width, self._info.native_height),)
        made = 0
        with ready.rehearsal():
            if self._optimized.modules:
                self._encode(model, sizes[0])
            for done, size in enumerate(sizes):
                example = model.prepare(self._example(size))
                state = model.begin(example, model.encode([example]).conditioning[0], 0)
                for part, was_made in self._step(model, state):
                    progress((done + part) / len(sizes))
                    made += was_made
                for many in ready.sizes(self._config.decode_batch) if self._optimized.modules else ():
                    model.decode([state] * many)
        model.forget_texts()
        if plan.compile is not Compilation.OFF and not made:
            raise Unsuitable("compile=regional: nothing of it could be compiled; the log says why")
        progress(1.0)

    def _encode(self, model: Performer, size: tuple[int, int]) -> None:
        for many in self._optimized.ready.sizes(2 * self._config.encode_batch):
            model.forget_texts()
            model.encode([model.prepare(self._example(size, prompt=str(number))) for number in range(many)])

    def _step(self, model: Performer, state: Denoising) -> Iterator[tuple[float, bool]]:
        """For each kind of call the share of all that is done by then, and whether it could be made ready."""
        sizes = self._optimized.ready.sizes(self._config.max_batch * self._info.guided_rows)
        # Whose modules are opened by the first adapter cannot be captured before it; compiled code reads all, open or not.
        variants = (False, True) if self._optimized.plan.compile is not Compilation.OFF else (False,)
        for number, rows in enumerate(sizes, start=1):
            for adapted in variants:
                yield number / len(sizes), model.batch_of(state, rows, adapted).make_ready()

    def _example(self, size: tuple[int, int], prompt: str = "") -> Parameters:
        """A job of one row: calls of any number of rows have the shapes of one with it."""
        info = self._info
        return Parameters(info.name, prompt, "", *size, info.default_steps, info.default_sampler, 1.0, 0, 1)
