"""What the devices did: always counted, and kept batch by batch where a picture of it is wanted."""

from dataclasses import dataclass

from collodion.wire.jobs import LatentId


@dataclass(frozen=True, slots=True)
class Segment:
    """One batch, or several step batches in a row with the same latents; `lane` is step, encode or decode."""

    worker: int
    lane: str
    start: float
    end: float
    key: str
    latents: tuple[LatentId, ...]
    evaluations: int = 0


class Recorder:
    """Counts evaluations (of latents) and step batches; keeps segments if asked to."""

    def __init__(self, keeps: bool) -> None:
        self._keeps = keeps
        self.segments: list[Segment] = []
        self.evaluations = 0
        self.step_batches = 0
        self.busy_s = 0.0

    def note(
        self,
        worker: int,
        lane: str,
        start: float,
        end: float,
        key: str,
        latents: tuple[LatentId, ...],
        evaluations: int = 0,
    ) -> None:
        """`latents` were in a batch of `lane`, `evaluations` times in a row if it was a step batch."""
        self.evaluations += evaluations * len(latents)
        self.step_batches += evaluations
        self.busy_s += end - start
        if self._keeps:
            self.segments.append(Segment(worker, lane, start, end, key, latents, evaluations))
