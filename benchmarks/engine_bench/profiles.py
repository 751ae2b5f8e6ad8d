"""Where the time of a step goes: the operations or kernels with the largest shares, and what is left for Python and launching."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from collodion.wire.jobs import Parameters
from engine_bench.clocks import settle
from engine_bench.drawing import Contestant

_TOP = 12
STEPS = 6
"""Of a run that is profiled; the first is not looked at."""


class Watch:
    """Profiles what a contestant does between two of its steps' ends."""

    def __init__(self, place: torch.device, last: int) -> None:
        cuda = place.type == "cuda"
        self._place = place
        self._last = last
        self._profile = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])])
        self._began = self._ended = 0.0

    def at_step(self, number: int) -> None:
        """Begins after the first step, and ends after the last."""
        if number == 0:
            settle(self._place)
            self._profile.start()
        elif number == self._last:
            settle(self._place)
            self._profile.stop()

    def events(self) -> list[Any]:
        """Everything that ran."""
        return list(self._profile.events() or ())  # type: ignore[no-untyped-call]

    def averages(self) -> Any:
        """By operation."""
        return self._profile.key_averages()


def profiled(contestant: Contestant, jobs: Sequence[Parameters], place: torch.device) -> dict[str, Any]:
    """Milliseconds of a step, and shares of it. The first step is not looked at."""
    last = jobs[0].steps - 1
    watch = Watch(place, last)
    contestant.draw(jobs, watch.at_step)
    events = [event for event in watch.events() if event.time_range.elapsed_us() > 0]
    span_us = max(event.time_range.end for event in events) - min(event.time_range.start for event in events)
    return summary(watch.averages(), busy_us(events, place.type), span_us, last, place.type)


def summary(averages: Any, busy: float, span_us: float, steps: int, kind: str) -> dict[str, Any]:
    """averages: as torch.profiler has them. busy, span_us: microseconds of `steps` steps."""
    attribute = "self_device_time_total" if kind == "cuda" else "self_cpu_time_total"
    shares = sorted(((getattr(one, attribute), one.count, one.key) for one in averages), reverse=True)
    top = [
        {"name": name, "ms_a_step": took / steps / 1e3, "share": took / span_us, "calls_a_step": count / steps}
        for took, count, name in shares[:_TOP]
        if took > 0
    ]
    return {"step_ms": span_us / steps / 1e3, "idle_share": max(0.0, 1 - busy / span_us), "top": top}


def busy_us(events: Sequence[Any], kind: str) -> float:
    """Microseconds in which at least one operation ran: kernels on a GPU, and on a CPU those that no other one called."""
    spans = sorted((one.time_range.start, one.time_range.end) for one in events if one.device_type.name == kind.upper())
    return covered(spans)


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of the union of spans, which are in order."""
    total, until = 0.0, float("-inf")
    for begin, end in spans:
        if end > until:
            total += end - max(begin, until)
            until = end
    return total
