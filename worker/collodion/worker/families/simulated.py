"""The simulated family: a cost table instead of a model, for tests, laptops and load runs. Imports no torch.

1. A batch costs what its lane's table says, slept on the device thread: so the recorded profile of a GPU can be replayed.
2. A picture depends on its parameters alone, whatever runs beside it: see `simulated_pictures`.
3. A prompt may ask for trouble, to rehearse it: `[raise]` raises in the second evaluation, `[nan]` goes non-finite there,
   `[crash]` ends the whole process.
"""

import os
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from collodion.process.config import ConfigError
from collodion.wire.artifacts import DirectoryStore
from collodion.wire.jobs import Failure, ModelInfo, Optimization, Parameters, Reason
from collodion.worker.config import WorkerConfig
from collodion.worker.families.simulated_pictures import Scene, draw, sketch
from collodion.worker.pipeline import Decoded, Encoded, LatentRefused, Picture, Plan, Stepped
from collodion.worker.sampling.catalog import MAX_STEPS, SAMPLERS
from collodion.worker.sampling.counting import line_of
from collodion.worker.timing import HostSpan
from collodion.worker.uploads import Uploads

_SECOND_ORDER = frozenset({"heun", "kdpm2"})
_WINDOW_WORDS = 75
_PREVIEW_SIDE = 32


@dataclass(frozen=True)
class CostTable:
    """Milliseconds by batch size: between the points interpolated, below them the first one's, above them in proportion to the
    last one's, as the scheduler takes it to be. `flat`: one figure for every size.
    """

    points: tuple[tuple[int, float], ...]
    flat: bool = False

    @classmethod
    def parse(cls, name: str, words: Sequence[str]) -> "CostTable":
        """From BATCH:MS pairs, or from one MS for every size. Raises ConfigError, which names the setting."""
        flat = len(words) == 1 and ":" not in words[0]
        try:
            points = sorted(_point(f"1:{word}" if flat else word) for word in words)
        except ValueError as error:
            raise ConfigError(f"{name}: {','.join(words)} is neither MS nor a list of BATCH:MS pairs") from error
        if not points or any(batch < 1 or not 0 <= ms < 1e6 for batch, ms in points):
            raise ConfigError(f"{name} needs at least one figure; batches from 1, milliseconds from 0")
        return cls(tuple(points), flat)

    def seconds(self, batch: int) -> float:
        """What a batch of this size costs."""
        index = bisect_left(self.points, (batch, 0.0))
        if index == 0:
            return self.points[0][1] / 1000
        low, low_ms = self.points[index - 1]
        if index == len(self.points):
            return low_ms * (1 if self.flat else batch / low) / 1000
        high, high_ms = self.points[index]
        return (low_ms + (high_ms - low_ms) * (batch - low) / (high - low)) / 1000


def _point(pair: str) -> tuple[int, float]:
    batch, ms = pair.split(":")
    return int(batch), float(ms)


@dataclass(frozen=True, eq=False)
class SimulatedPlan(Plan):
    """With what the job begins from."""

    scene: Scene | None = None


@dataclass(eq=False, slots=True)
class SimulatedLatent:
    """Counts its evaluations, which is all that a simulated latent is."""

    plan: SimulatedPlan
    seed: int
    trouble: str
    evaluations: int = 0


class Simulated:
    """See the module."""

    run_ahead = 0
    optimizations: tuple[Optimization, ...] = ()

    def __init__(self, name: str, config: WorkerConfig, weight_bytes: int = 0) -> None:
        self.weight_bytes = weight_bytes
        self._artifacts = config.artifacts
        self._step_cost = CostTable.parse("simulated_step_ms", config.simulated_step_ms)
        self._encode_cost = CostTable.parse("simulated_encode_ms", config.simulated_encode_ms)
        self._decode_cost = CostTable.parse("simulated_decode_ms", config.simulated_decode_ms)
        self.info = ModelInfo(
            name=name,
            family="simulated",
            native_width=512,
            native_height=512,
            min_size=8,
            max_size=4096,
            size_multiple=8,
            default_steps=20,
            max_steps=MAX_STEPS,
            default_sampler="dpmpp_2m",
            samplers=tuple(SAMPLERS),
            default_guidance_scale=7.5,
            max_prompt_tokens=_WINDOW_WORDS,
            dtype="none",
            license="Apache-2.0",
            init_images=True,
            masks=True,
            loras=True,
            weighted_prompts=True,
            evaluations={name: line for name in SAMPLERS if (line := _calls(name)) != (1, 0)},
        )

    def close(self) -> None:
        """See Pipeline. There is nothing to give back."""

    def prepare(self, parameters: Parameters) -> SimulatedPlan:
        """See Pipeline. A word counts as a token."""
        if parameters.sampler not in SAMPLERS:
            message = f"unknown sampler {parameters.sampler!r}"
            raise LatentRefused(Failure(reason=Reason.SAMPLER_REFUSED, message=message))
        words = len(parameters.prompt.split())
        warning = ("PROMPT_TRUNCATED", f"the prompt has {words} words, of which the first {_WINDOW_WORDS} are read")
        return SimulatedPlan(
            parameters,
            _course(parameters.sampler, parameters.steps_run),
            (warning,) if words > _WINDOW_WORDS else (),
            Scene.read(parameters, Uploads(DirectoryStore(self._artifacts))) if parameters.init_image else None,
        )

    def encode(self, plans: Sequence[SimulatedPlan]) -> Encoded[str]:
        """See Pipeline."""
        with HostSpan() as span:
            time.sleep(self._encode_cost.seconds(len(plans)))
        return Encoded(span, [plan.parameters.prompt for plan in plans])

    def begin(self, plan: SimulatedPlan, conditioning: str, seed: int) -> SimulatedLatent:
        """See Pipeline."""
        trouble = next((word for word in ("[raise]", "[nan]", "[crash]") if word in conditioning), "")
        return SimulatedLatent(plan, seed, trouble)

    def step(self, states: Sequence[SimulatedLatent]) -> Stepped:
        """See Pipeline."""
        with HostSpan() as span:
            lost = [row for row, state in enumerate(states) if state.trouble and _rehearse(state)]
            time.sleep(self._step_cost.seconds(len(states)))
        for state in states:
            state.evaluations += 1
        return Stepped(span, lambda: lost)

    def decode(self, states: Sequence[SimulatedLatent]) -> Decoded:
        """See Pipeline."""
        ends = time.perf_counter() + self._decode_cost.seconds(len(states))
        with HostSpan() as span:
            pictures = [draw(state.plan.parameters, state.seed, state.plan.scene) for state in states]
            time.sleep(max(0.0, ends - time.perf_counter()))
        return Decoded(span, lambda: pictures)

    def park(self, state: SimulatedLatent) -> None:
        """See Pipeline. There is nothing to let go of."""

    def state_bytes(self, state: SimulatedLatent) -> int:
        """See Pipeline. As much as a real latent of that size: four float32 a pixel of it, which stands for 8 by 8."""
        parameters = state.plan.parameters
        return parameters.width * parameters.height // 4

    def spill(self, state: SimulatedLatent) -> None:
        """See Pipeline. There is nothing to move."""

    def recall(self, state: SimulatedLatent) -> None:
        """See Pipeline. There is nothing to move."""

    def tidy(self) -> bool:
        """See Pipeline."""
        return False

    def snapshot(self, state: SimulatedLatent) -> tuple[Parameters, int, float]:
        """See Pipeline."""
        return state.plan.parameters, state.seed, state.evaluations / (len(state.plan.course) - 1)

    def preview(self, snapshot: tuple[Parameters, int, float]) -> Picture:
        """See Pipeline. Noise that gives way to the picture."""
        parameters, seed, done = snapshot
        return sketch(parameters, seed, _PREVIEW_SIDE, done)


def _course(sampler: str, steps: int) -> tuple[int, ...]:
    """As many evaluations as the real sampler makes."""
    if sampler in _SECOND_ORDER:
        return (*(call // 2 for call in range(2 * steps - 1)), steps)
    if sampler == "pndm":
        return (0, *range(steps + 1))
    return tuple(range(steps + 1))


def _calls(sampler: str) -> tuple[int, int]:
    return line_of(sampler, lambda steps: len(_course(sampler, steps)) - 1)


def _rehearse(state: SimulatedLatent) -> bool:
    """Does what the prompt asks for; whether the latent is to go non-finite."""
    if state.evaluations != min(1, len(state.plan.course) - 2):
        return False
    if state.trouble == "[crash]":
        os._exit(3)
    if state.trouble == "[raise]":
        raise RuntimeError("this prompt asked for an error")
    return True
