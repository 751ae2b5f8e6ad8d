"""`python -m collodion.worker.profiling`: measures what a model's stages cost on this device, with no server running.

1. Each round measures every batch size of every stage once, in an order of its own, so that a device that grows warm, or is busy with
   something else, wrongs no size alone. A round before them is not counted: it compiles, allocates and tunes.
2. Calls are issued as the worker issues them, and timed by the same spans: on a GPU by its own clock.
3. What does not fit the device's memory is left out, and so is everything larger.
4. Standard output carries JSON lines, each an object with `event`: `loaded`, `measured` (progress), `left_out`, and at the end one
   `profile` for each size. The exit code is 2 if the configuration cannot be used; then the last line of standard error says why.
"""

import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from collodion.process.config import ConfigError, load, setting
from collodion.process.logs import configure_logs
from collodion.wire.artifacts import DirectoryStore
from collodion.wire.jobs import ModelInfo, Parameters
from collodion.worker.config import WorkerConfig
from collodion.worker.device_kind import device_kind
from collodion.worker.images import encode as encode_picture
from collodion.worker.models import load_models
from collodion.worker.pipeline import AnyPipeline, Plan
from collodion.worker.timing import Span

_CALLS = 3  # evaluations of one batch in a row; the first, which builds the batch, is not counted
_PICTURES_STORED = 5
_SOLID = 1.4826  # from the median deviation to the standard deviation of a normal distribution
_LARGEST_BATCH = 1024

Say = Callable[..., None]


@dataclass(frozen=True)
class ProfilingConfig(WorkerConfig):
    """Settings of the worker that measures: its own, and what to measure."""

    sizes: tuple[str, ...] = setting((), "Sizes of pictures as WIDTHxHEIGHT; none is the model's own size.")
    batches: tuple[str, ...] = setting(("1-16",), "Batch sizes, as numbers and ranges: 1-8,12,16.")
    rounds: int = setting(
        7, "How often each batch size is measured; few leave noise in the profile, many take time.", low=1, high=1000
    )


@dataclass
class _Stage:
    """One lane's measurements, in seconds by batch size; from `bound` on a batch does not fit."""

    bound: int
    seconds: dict[int, list[float]] = field(default_factory=dict)


class Bench:
    """One model at one size, ready to be measured at any batch size."""

    def __init__(self, pipeline: AnyPipeline, width: int, height: int) -> None:
        self._pipeline = pipeline
        info = pipeline.info
        self.parameters = Parameters(
            model=info.name,
            prompt="",
            negative_prompt="",
            width=width,
            height=height,
            steps=max(info.default_steps, _CALLS),
            sampler=info.default_sampler,
            guidance_scale=info.default_guidance_scale,
            seed=0,
            images=1,
        )
        self.lanes = {"encode": self.encode, "step": self.step, "decode": self.decode}

    def encode(self, batch: int) -> list[float]:
        """Seconds of encoding so many jobs, which have prompts of their own."""
        return [self._encoded(batch)[1]]

    def step(self, batch: int) -> list[float]:
        """Seconds of an evaluation of so many latents, several in a row."""
        states = self._states(batch)
        seconds: list[float] = []
        issued: deque[Span] = deque()
        for _ in range(_CALLS):
            issued.append(self._pipeline.step(states).span)
            while len(issued) > self._pipeline.run_ahead:
                seconds.append(issued.popleft().wait())
        seconds.extend(span.wait() for span in issued)
        return seconds[1:]

    def decode(self, batch: int) -> list[float]:
        """Seconds of decoding so many latents."""
        decoded = self._pipeline.decode(self._states(batch))
        seconds = decoded.wait()
        decoded.pictures()
        return [seconds]

    def store(self) -> float:
        """Seconds from a picture to its being stored."""
        decoded = self._pipeline.decode(self._states(1))
        decoded.wait()
        picture = next(iter(decoded.pictures()))
        height, width = self.parameters.height, self.parameters.width
        drawn = picture if picture is not None else np.zeros((height, width, 3), np.uint8)
        with tempfile.TemporaryDirectory(prefix="collodion-profile-") as folder:
            store, seconds = DirectoryStore(Path(folder)), []
            for number in range(_PICTURES_STORED):
                began = time.perf_counter()
                store.put(f"profile/{number}.png", encode_picture(drawn, self.parameters))
                seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)

    def _encoded(self, batch: int) -> tuple[list[tuple[Plan, Any]], float]:
        plans = [self._pipeline.prepare(_prompted(self.parameters, number)) for number in range(batch)]
        encoded = self._pipeline.encode(plans)
        return list(zip(plans, encoded.conditioning, strict=True)), encoded.span.wait()

    def _states(self, batch: int) -> list[Any]:
        # One job's conditioning would do, but encoding a large batch may need memory that stepping it does not.
        ((plan, conditioning),), _ = self._encoded(1)
        return [self._pipeline.begin(plan, conditioning, seed) for seed in range(batch)]


def _prompted(parameters: Parameters, number: int) -> Parameters:
    return msgspec.structs.replace(parameters, prompt=f"picture number {number} of a profile", negative_prompt="none")


class Profiler:
    """Measures one size of a model."""

    def __init__(self, bench: Bench, batches: Sequence[int], bounds: Mapping[str, int], say: Say) -> None:
        self._bench = bench
        self._batches = batches
        self._say = say
        self._stages = {lane: _Stage(bound=bounds[lane] + 1) for lane in bench.lanes}
        self._random = random.Random(0)

    def warm_up(self) -> None:
        """Every batch size once, the largest last, uncounted. Finds out what fits."""
        for batch in self._batches:
            for lane in self._bench.lanes:
                self._measure(lane, batch, counted=False)

    def round(self) -> None:
        """Every batch size of every stage that fits, once."""
        todo = [(lane, batch) for lane in self._bench.lanes for batch in self._batches]
        self._random.shuffle(todo)
        for lane, batch in todo:
            self._measure(lane, batch, counted=True)

    def result(self) -> dict[str, Any]:
        """Medians and quartiles in seconds by batch size for each lane, and the share by which single calls differ."""
        return {
            "lanes": {lane: {b: statistics.median(s) for b, s in of.seconds.items()} for lane, of in self._measured()},
            "quartiles": {lane: {b: _quartiles(s) for b, s in of.seconds.items()} for lane, of in self._measured()},
            "spread": {lane: statistics.median(map(_spread, of.seconds.values())) for lane, of in self._measured()},
            "store_s": self._bench.store(),
        }

    def _measured(self) -> Iterator[tuple[str, _Stage]]:
        return ((lane, stage) for lane, stage in self._stages.items() if stage.seconds)

    def _measure(self, lane: str, batch: int, *, counted: bool) -> None:
        stage = self._stages[lane]
        asked = self._bench.parameters
        if batch < stage.bound:
            try:
                seconds = self._bench.lanes[lane](batch)
            except MemoryError:
                stage.bound = batch
                stage.seconds = {size: taken for size, taken in stage.seconds.items() if size < batch}
                self._say("left_out", lane=lane, batch=batch, size=f"{asked.width}x{asked.height}")
            else:
                if counted:
                    stage.seconds.setdefault(batch, []).extend(seconds)
        self._say("measured", lane=lane, batch=batch, size=f"{asked.width}x{asked.height}")


def profile(config: ProfilingConfig, say: Say) -> None:
    """Loads, measures and says it all. Raises ConfigError."""
    if len(config.models) != 1:
        raise ConfigError(f"models: {','.join(config.models)} has to be one model")
    batches = _batches(config.batches)
    asked = [_size(text) for text in config.sizes]
    place, pipelines = load_models(replace(config, text_cache_mib=0))  # what is measured is not to be remembered
    ((name, pipeline),) = pipelines.items()
    sizes = [_fitting(size, pipeline.info) for size in asked or [_own_size(pipeline.info)]]
    total = len(sizes) * len(batches) * 3 * (config.rounds + 1)
    said = {"device": place, "device_kind": device_kind(place), "versions": _versions()}
    say("loaded", model=name, total=total, **said)
    profilers = {size: Profiler(Bench(pipeline, *size), batches, _bounds(config), say) for size in sizes}
    for profiler in profilers.values():
        profiler.warm_up()
    for _ in range(config.rounds):
        for profiler in profilers.values():
            profiler.round()
    for (width, height), profiler in profilers.items():
        result = profiler.result()
        if "step" not in result["lanes"]:
            raise ConfigError(f"not even a batch of {batches[0]} at {width}x{height} fits the memory of {place}")
        bench = Bench(pipeline, width, height)
        say(
            "profile",
            model=name,
            width=width,
            height=height,
            key=bench.parameters.batch_key,
            rows=pipeline.info.rows_of(bench.parameters),
            **said,
            **result,
        )


def main() -> int:
    """The exit code: 0 when it is measured, 2 if the configuration cannot be used."""
    config = load(ProfilingConfig, "worker", sys.argv[1:])
    configure_logs("profiling", config.log_format, config.log_level)
    lines, sys.stdout = sys.stdout, sys.stderr  # what libraries print does not mix with ours

    def say(event: str, **facts: Any) -> None:
        print(json.dumps({"event": event, **facts}), file=lines, flush=True)

    try:
        profile(config, say)
    except ConfigError as error:
        print(f"collodion worker: {error}", file=sys.stderr)
        return 2
    return 0


def _batches(words: Sequence[str]) -> list[int]:
    """From 1-4,8 to numbers in ascending order. Raises ConfigError."""
    chosen: set[int] = set()
    for word in words:
        low, dash, high = word.strip().partition("-")
        if (
            not low.isdigit()
            or (dash and not high.isdigit())
            or not 1 <= int(low) <= int(high or low) <= _LARGEST_BATCH
        ):
            raise ConfigError(f"batches: {word!r} is neither a number nor a range (1-16) up to {_LARGEST_BATCH}")
        chosen.update(range(int(low), int(high or low) + 1))
    if not chosen:
        raise ConfigError("batches: there has to be one at least")
    return sorted(chosen)


def _bounds(config: WorkerConfig) -> dict[str, int]:
    """The largest batch of each lane: the worker's own where it pads them all to it, else what fits."""
    if config.reproducible:
        return {"encode": config.encode_batch, "step": config.max_batch, "decode": config.decode_batch}
    return dict.fromkeys(("encode", "step", "decode"), _LARGEST_BATCH)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.strip().partition("x")
    if not width.isdigit() or not height.isdigit():
        raise ConfigError(f"sizes: {text!r} is not WIDTHxHEIGHT")
    return int(width), int(height)


def _own_size(info: ModelInfo) -> tuple[int, int]:
    return info.native_width, info.native_height


def _fitting(size: tuple[int, int], info: ModelInfo) -> tuple[int, int]:
    for side in size:
        if not info.min_size <= side <= info.max_size or side % info.size_multiple:
            raise ConfigError(
                f"sizes: {size[0]}x{size[1]} is not for model {info.name!r}: "
                f"sides are multiples of {info.size_multiple} from {info.min_size} to {info.max_size}"
            )
    return size


def _versions() -> dict[str, str]:
    loaded = [name for name in ("torch", "diffusers", "transformers") if name in sys.modules]
    return {"collodion": version("collodion"), "python": platform.python_version()} | {
        name: version(name) for name in loaded
    }


def _quartiles(seconds: list[float]) -> tuple[float, float]:
    if len(seconds) < 2:
        return seconds[0], seconds[0]
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return low, high


def _spread(seconds: list[float]) -> float:
    """Standard deviation of a call, relative, as the median deviation gives it: a single stall does not count."""
    middle = statistics.median(seconds)
    return _SOLID * statistics.median(abs(each - middle) for each in seconds) / middle


if __name__ == "__main__":
    sys.exit(main())
