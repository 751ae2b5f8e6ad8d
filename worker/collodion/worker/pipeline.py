"""What the engine asks of a model family. One file in `families/` per family.

The engine imports no torch and knows nothing of models: what a family returns (plan, conditioning, state) it only
hands back to the same family. All methods but `prepare`, `preview` and `close` are called on the device thread alone.

1. A method that raises has changed nothing: the engine calls again with each row alone to find the guilty one.
   `MemoryError` says that the batch did not fit.
2. Nothing waits for the device but `Span.wait`. A family whose device works asynchronously says by `run_ahead`
   how many batches may be issued before the oldest is waited for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from collodion.wire.jobs import Failure, ModelInfo, Optimization, Parameters
from collodion.worker.timing import Span

Picture = NDArray[np.uint8]
"""A finished picture: (height, width, 3), RGB."""


class LatentRefused(Exception):
    """This latent cannot be drawn, and it is nobody else's fault; `failure` is told to the client."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, eq=False)
class Plan:
    """A job made ready off the device thread.

    course: entry k is how many steps, as the user counts them, are done after k evaluations; it begins with 0 and ends with
    the steps asked for, so there are len(course) - 1 evaluations. warnings: (reason, message) pairs for the client.
    """

    parameters: Parameters
    course: tuple[int, ...]
    warnings: tuple[tuple[str, str], ...] = ()


PlanT = TypeVar("PlanT", bound=Plan)
ConditioningT = TypeVar("ConditioningT")
StateT = TypeVar("StateT")


@dataclass(frozen=True, eq=False)
class Encoded(Generic[ConditioningT]):
    """What encoding gave, in the order of the plans; usable at once, though the device may still be at it. whole: see Stepped."""

    span: Span
    conditioning: Sequence[ConditioningT]
    whole: bool = True


@dataclass(frozen=True, eq=False)
class Stepped:
    """An evaluation of a step batch. `non_finite` gives the rows that are lost, once the span was waited for.

    whole: nothing was left out, so that it took as long as such a batch takes.
    """

    span: Span
    non_finite: Callable[[], Sequence[int]]
    whole: bool = True


@dataclass(frozen=True, eq=False)
class Decoded:
    """Decoded latents. `pictures` gives them, None for one that is not finite, once the span was waited for.

    advance: None if all of it was issued. Else it goes on beside later steps: each call issues what may be issued now (given True:
    whatever that costs the steps) and says whether all is done. The latents are not to change before; what it raises concerns them all.
    """

    span: Span
    pictures: Callable[[], Sequence[Picture | None]]
    advance: Callable[[bool], bool] | None = None

    def wait(self) -> float:
        """Issues what was not, whatever that costs, and waits until the device is done; see Span."""
        if self.advance is not None:
            self.advance(True)
        return self.span.wait()


class Pipeline(Protocol[PlanT, ConditioningT, StateT]):
    """A model, loaded on one device. It is made on a thread of its own, and becomes the device thread's."""

    info: ModelInfo
    run_ahead: int

    @property
    def weight_bytes(self) -> int:
        """Device memory that it takes by being loaded."""

    @property
    def optimizations(self) -> tuple[Optimization, ...]:
        """What makes it fast, as it is now: what is made ready in the background may add to it. Asked on any thread; waits for nothing."""

    def close(self) -> None:
        """Gives that memory back, on the thread that loads. No latent of it is left and nothing is under way; `prepare` and `preview` may
        still be called, and raise.
        """

    def prepare(self, parameters: Parameters) -> PlanT:
        """Whatever needs no device. Called on any thread. Raises LatentRefused."""

    def encode(self, plans: Sequence[PlanT]) -> Encoded[ConditioningT]:
        """The prompts of these jobs as the model reads them."""

    def begin(self, plan: PlanT, conditioning: ConditioningT, seed: int) -> StateT:
        """A latent of this job at pure noise."""

    def step(self, states: Sequence[StateT]) -> Stepped:
        """Brings every latent forward by one evaluation, in one model call. They are of one size, and not finished."""

    def decode(self, states: Sequence[StateT]) -> Decoded:
        """The pictures of finished latents of one size."""

    def park(self, state: StateT) -> None:
        """Lets go of memory that the latent shares with its last batch."""

    def state_bytes(self, state: StateT) -> int:
        """Device memory of a parked latent; what it shares with others of its job is counted in full."""

    def spill(self, state: StateT) -> None:
        """Moves a parked latent to host memory. Nothing but `recall` is asked of it then."""

    def recall(self, state: StateT) -> None:
        """Moves it back, as it was bit for bit."""

    def tidy(self) -> bool:
        """Something that makes later batches faster, and takes no longer than one; asked for when there is nothing else to do. False if
        there was nothing.
        """

    def snapshot(self, state: StateT) -> Any:
        """What the latent is going to be, as far as is known now, for `preview`; costs next to nothing, later steps leave it."""

    def preview(self, snapshot: Any) -> Picture:
        """A small picture of a snapshot. Called on any thread."""


AnyPipeline = Pipeline[Any, Any, Any]
