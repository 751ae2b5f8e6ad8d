"""Where in a timeline a latent is drawn: it keeps its row while it stays in the batch."""

from collections.abc import Iterable
from dataclasses import dataclass

from collodion.wire.jobs import LatentId
from simulation.recorder import Segment
from simulation.truth import STEP


@dataclass(frozen=True, slots=True)
class Placed:
    """A segment with the row of each of its latents, 0 the lowest."""

    segment: Segment
    rows: tuple[int, ...]


def placed(segments: Iterable[Segment]) -> list[Placed]:
    """One worker's segments, in order of time."""
    rows: dict[LatentId, int] = {}
    result = []
    for segment in segments:
        if segment.lane == STEP:
            within = set(segment.latents)
            rows = {latent: row for latent, row in rows.items() if latent in within}
        result.append(Placed(segment, tuple(_row(rows, latent) for latent in segment.latents)))
    return result


def _row(rows: dict[LatentId, int], latent: LatentId) -> int:
    if latent not in rows:
        taken = set(rows.values())
        rows[latent] = next(row for row in range(len(taken) + 1) if row not in taken)
    return rows[latent]
