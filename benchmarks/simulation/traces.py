"""Traces of arrivals: two formats, told apart by their first line.

1. A table with a header (`gentd26.csv` of Alibaba's cluster-trace-v2026-GenAI): `gmt_create` is a date and time, `num_inference_steps`,
   `num_images_per_prompt` and `groupId` say steps, images and tenant. A row that lacks steps or images is left out.
2. Lines of two numbers (DiffServe): milliseconds and a prompt's id. Steps and images are the reader's choice then.
"""

import csv
import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_TIME, _STEPS, _IMAGES, _TENANT = "gmt_create", "num_inference_steps", "num_images_per_prompt", "groupId"


class TraceError(ValueError):
    """There is no such file, or it is in neither format."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace. `when` is seconds from the first one; None where the trace does not say."""

    when: float
    steps: int | None = None
    images: int | None = None
    tenant: str | None = None


def read_trace(path: Path) -> tuple[Arrival, ...]:
    """All arrivals, by time, the first at zero. Raises TraceError."""
    try:
        lines = path.read_text().splitlines()
        read = _table(lines) if lines and _TIME in lines[0] else _pairs(lines)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TraceError(f"{path}: {error}") from error
    if not read:
        raise TraceError(f"{path} has no arrivals")
    read.sort(key=lambda arrival: arrival.when)
    first = read[0].when
    return tuple(Arrival(each.when - first, each.steps, each.images, each.tenant) for each in read)


def _table(lines: Iterable[str]) -> list[Arrival]:
    rows: Iterable[Mapping[str, str]] = csv.DictReader(lines)
    return [
        Arrival(
            datetime.datetime.fromisoformat(row[_TIME]).timestamp(),
            int(float(row[_STEPS])),
            int(float(row[_IMAGES])),
            row[_TENANT],
        )
        for row in rows
        if row[_STEPS] and row[_IMAGES]
    ]


def _pairs(lines: Iterable[str]) -> list[Arrival]:
    arrivals = []
    for line in lines:
        if line.strip():
            milliseconds, _, prompt = line.partition(",")
            if not prompt:
                raise ValueError(f"{line[:40]!r} is not a time in ms and a prompt's id")
            arrivals.append(Arrival(float(milliseconds) / 1000))
    return arrivals
