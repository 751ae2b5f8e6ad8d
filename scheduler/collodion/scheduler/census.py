"""How many of everything there are, for metrics."""

from collections import Counter
from dataclasses import dataclass

from collodion.wire.jobs import JobState, Stage


@dataclass(frozen=True, slots=True)
class Census:
    """Counts at one moment. Latents are those of unfinished jobs."""

    jobs: Counter[JobState]
    latents: Counter[Stage]
    queued_latents: int
    workers: int
    frontends: int
