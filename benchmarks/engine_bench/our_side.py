"""This project's pipeline, called as a worker's device thread calls it, without the worker around it."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import torch

from collodion.wire.jobs import Optimization, Parameters
from collodion.worker.config import WorkerConfig
from collodion.worker.families.adapter_files import AdapterFiles
from collodion.worker.families.device import choose_device
from collodion.worker.families.latent_diffusion import LatentDiffusion
from collodion.worker.families.loading import Loading
from collodion.worker.registry.loading import ReadParts
from engine_bench.clocks import Clock, Stamps
from engine_bench.columns import Column
from engine_bench.drawing import Drawn, NotFinite, nothing
from engine_bench.events import Events
from engine_bench.options import Settings
from engine_bench.subjects import Subject


class OurSide:
    """A contestant, see `engine_bench.drawing`. Whatever cannot be is what `Loading` raises.

    parts_s: how long reading or drawing its weights took, which is in no column's start-up; start_s: how long all else of loading took.
    """

    def __init__(self, subject: Subject, column: Column, config: WorkerConfig, clock: Clock) -> None:
        self.events = Events()
        self.config = config
        self.clock = clock
        self.parts_s = 0.0
        self._step_cache = column.step_cache
        began = time.perf_counter()
        device = choose_device(config)
        self.place = device.place
        made = Loading(config, device, AdapterFiles(), lambda _: self.events, self._timed(subject))
        self.pipeline: LatentDiffusion = made.load(subject.source, lambda _: None)
        self.start_s = time.perf_counter() - began - self.parts_s

    @property
    def weight_bytes(self) -> int:
        """Of all parts."""
        return self.pipeline.weight_bytes

    @property
    def denoiser(self) -> Any:
        """What is called at every step."""
        return self.pipeline._architecture.denoiser

    @property
    def optimizations(self) -> Sequence[Optimization]:
        """What took effect."""
        return self.pipeline.optimizations

    def draw(self, jobs: Sequence[Parameters], at_step: Callable[[int], None] = nothing) -> Drawn:
        """See Contestant."""
        states = self.begin([_cached(job, self._step_cache) for job in jobs])
        step_s, gaps = self.run(lambda: states, len(states[0].trajectory.table.step_of), at_step)
        pictures = self.decode(states)
        return Drawn(step_s, pictures, lambda: _latents(states), gaps)

    def begin(self, jobs: Sequence[Parameters]) -> list[Any]:
        """Their latents, at pure noise."""
        pipeline, size = self.pipeline, self.config.encode_batch
        plans = [pipeline.prepare(job) for job in jobs]
        read = [one for at in range(0, len(plans), size) for one in pipeline.encode(plans[at : at + size]).conditioning]
        return [pipeline.begin(plan, one, job.seed) for plan, one, job in zip(plans, read, jobs, strict=True)]

    def run(
        self, present: Callable[[], Sequence[Any]], calls: int, at_step: Callable[[int], None] = nothing
    ) -> tuple[list[float], list[float]]:
        """So many model calls of those who are present at each; how long each took, and the gaps before them, see Drawn.

        As in the engine, as many are under way as the device has a queue for.
        """
        stamps = Stamps(self.place, self.clock)
        under_way: list[Any] = []
        done: list[Any] = []
        for number in range(calls):
            stepped = self.pipeline.step(present())
            stamps.take()
            under_way.append(stepped)
            while len(under_way) > self.pipeline.run_ahead:
                done.append(_finished(under_way.pop(0)))
            at_step(number)
        done += map(_finished, under_way)
        gaps = [_gap(before, after) for before, after in pairwise(done)]
        return stamps.seconds(), gaps

    def decode(self, states: Sequence[Any]) -> list[Any]:
        """Their pictures."""
        size = self.config.decode_batch
        pictures: list[Any] = []
        for at in range(0, len(states), size):
            decoded = self.pipeline.decode(states[at : at + size])
            decoded.span.wait()
            pictures += decoded.pictures()
        if any(picture is None for picture in pictures):
            raise NotFinite("a picture is not finite")
        return pictures

    def close(self) -> None:
        """See Contestant."""
        self.pipeline.close()

    def _timed(self, subject: Subject) -> ReadParts:
        def parts(*arguments: Any, **named: Any) -> dict[str, Any]:
            began = time.perf_counter()
            made = subject.parts(*arguments, **named)
            self.parts_s += time.perf_counter() - began
            return made

        return parts


def config_for(column: Column, settings: Settings, size: tuple[int, int], most: int, scratch: Path) -> WorkerConfig:
    """A worker's settings for this column. size: of the pictures, in pixels. most: of a batch. scratch: for what a worker stores."""
    return WorkerConfig(
        device=str(settings.place),
        optimize=(f"dtype={settings.dtype}", f"sizes={size[0]}x{size[1]}", *column.words),
        threads=settings.threads,
        max_batch=most,
        artifacts=scratch / "artifacts",
        run_dir=scratch,
    )


def _cached(job: Parameters, step_cache: float) -> Parameters:
    if not step_cache:
        return job
    return msgspec.structs.replace(job, step_cache=step_cache)


def _finished(stepped: Any) -> Any:
    stepped.span.wait()
    if stepped.non_finite():
        raise NotFinite("a latent is not finite")
    return stepped.span


def _gap(before: Any, after: Any) -> float:
    """The share of the time from the end of one step to the end of the next in which the latter had not begun."""
    gap, step = max(0.0, after.gap_after(before)), after.wait()
    share: float = gap / (gap + step)
    return share


def _latents(states: Sequence[Any]) -> torch.Tensor:
    return torch.stack([state.trajectory.latent.float().cpu() for state in states])
