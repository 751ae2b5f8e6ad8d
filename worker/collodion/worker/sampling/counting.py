"""How many model calls a sampler makes for so many steps: a straight line, which is what the scheduler is told and plans with.

It is never taken from a list of names: whoever knows the sampler is asked at a few numbers of steps, which have to lie on one line.
A single step may take less than the line says, as with PNDM; a forecast is one call too long then. Imports no torch.
"""

from collections.abc import Callable, Iterator
from typing import Final

from collodion.worker.sampling.catalog import SamplerRefused

COUNTED_AT: Final = (2, 10, 50)
"""Numbers of steps; those that the sampler refuses are passed over."""


def line_of(name: str, calls: Callable[[int], int]) -> tuple[int, int]:
    """(a, b) if n steps take a·n + b calls. Raises `SamplerRefused` if they do not.

    calls: how many calls so many steps take; may raise `SamplerRefused`.
    """
    counted = dict(_counts(calls))
    if len(counted) < 2:
        raise SamplerRefused(f"{name} runs with too few numbers of steps to tell how many model calls it makes")
    fewest, most = min(counted), max(counted)
    a = (counted[most] - counted[fewest]) // (most - fewest)
    b = counted[fewest] - a * fewest
    if any(found != a * steps + b for steps, found in counted.items()):
        raise SamplerRefused(f"{name} makes model calls in no proportion to its steps: {counted}")
    return a, b


def _counts(calls: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    for steps in COUNTED_AT:
        try:
            yield steps, calls(steps)
        except SamplerRefused:
            continue
