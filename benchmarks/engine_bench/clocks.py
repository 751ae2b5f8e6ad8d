"""Time and memory of a device, the same way for every column.

A stamp is a moment in the device's own order: on a GPU an event on the current stream, which nobody waits for until it is read.
"""

import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")
_MEMORY = Path("/proc/meminfo")
_CLEAR_REFS = Path("/proc/self/clear_refs")


Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
"""The latter is this process's own time: what is left to measure by on a CPU that others use."""


class Stamps:
    """Moments, between which time is read once all is over. clock: of a CPU."""

    def __init__(self, place: torch.device, clock: Clock) -> None:
        self._cuda = place.type == "cuda"
        self._clock = clock
        self._taken: list[Any] = []

    def take(self) -> None:
        """Now; nothing waits."""
        if not self._cuda:
            self._taken.append(self._clock())
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._taken.append(event)

    def seconds(self) -> list[float]:
        """From each to the next one."""
        if self._cuda and self._taken:
            self._taken[-1].synchronize()
        pairs = pairwise(self._taken)
        return [one.elapsed_time(other) / 1000 if self._cuda else other - one for one, other in pairs]


def rate_of(seconds: Sequence[float]) -> float:
    """Steps a second; 0 for a run of one step, whose beginning is unknown."""
    return len(seconds) / sum(seconds) if seconds and sum(seconds) > 0 else 0.0


def settle(place: torch.device) -> None:
    """Whatever was asked of the device is done."""
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def release(place: torch.device) -> None:
    """Gives back what nobody holds any more."""
    gc.collect()
    if place.type == "cuda":
        torch.cuda.empty_cache()
    else:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def in_use(place: torch.device) -> int:
    """Bytes of the device that are allocated; of a CPU what this process has in memory."""
    return torch.cuda.memory_allocated(place) if place.type == "cuda" else _of_process("VmRSS")


def free_bytes(place: torch.device) -> int:
    """Of the device's memory."""
    if place.type == "cuda":
        return int(torch.cuda.mem_get_info(place)[0])
    return _field(_MEMORY, "MemAvailable")


class Peak:
    """How much more than at its beginning was in use at most, `bytes`, while it was entered.

    On a CPU that is what the process had in memory: what an earlier run gave back to the allocator alone is not seen again.
    """

    def __init__(self, place: torch.device) -> None:
        self._place = place
        self._before = 0
        self.bytes = 0

    def __enter__(self) -> "Peak":
        release(self._place)
        if self._place.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._place)
        elif _CLEAR_REFS.exists():
            _CLEAR_REFS.write_text("5")  # proc(5): the peak counts from now on
        self._before = in_use(self._place)
        return self

    def __exit__(self, *exc: object) -> None:
        cuda = self._place.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self._place) if cuda else _of_process("VmHWM")
        self.bytes = max(0, peak - self._before)


def _of_process(key: str) -> int:
    return _field(_STATUS, key)


def _field(file: Path, key: str) -> int:
    """Of a file in proc(5) with a line "key: N kB"; bytes, 0 where there is none."""
    lines = file.read_text().splitlines() if file.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(key + ":")), 0)
