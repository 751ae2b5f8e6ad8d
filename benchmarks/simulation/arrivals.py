"""Moments of arrival, one a second on average: drawn, or a stretch of a trace."""

import itertools
import math
import random
from collections.abc import Iterator

from simulation.traces import Arrival


def gamma_moments(cv: float, stream: str) -> Iterator[float]:
    """Without end; the times between them have this coefficient of variation (1: Poisson). `stream` is the seed."""
    chance = random.Random(stream)
    if cv == 1.0:
        gaps = (chance.expovariate(1.0) for _ in itertools.repeat(None))
    else:
        gaps = (chance.gammavariate(1 / cv**2, cv**2) for _ in itertools.repeat(None))
    return itertools.accumulate(gaps)


def window_of(trace: tuple[Arrival, ...], count: int, stream: str) -> tuple[Arrival, ...]:
    """`count` arrivals in a row from a place that is drawn; a trace that is too short begins again at its end."""
    if not trace:
        return ()
    start = random.Random(stream).randrange(max(1, len(trace) - count + 1))
    lap_s = trace[-1].when + trace[-1].when / len(trace)
    arrivals = []
    for index in range(start, start + count):
        laps, place = divmod(index, len(trace))
        each = trace[place]
        arrivals.append(Arrival(each.when + laps * lap_s, each.steps, each.images, each.tenant))
    return tuple(arrivals)


def window_moments(window: tuple[Arrival, ...]) -> Iterator[float]:
    """The window's, stretched."""
    gap_s = mean_gap_s(window)
    return ((each.when - window[0].when) / gap_s for each in window)


def mean_gap_s(window: tuple[Arrival, ...]) -> float:
    """Seconds between two arrivals on average; infinite where all come at once."""
    span_s = window[-1].when - window[0].when
    return span_s / (len(window) - 1) if span_s else math.inf
