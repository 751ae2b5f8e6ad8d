"""The window: the latents that are brought forward now, by the rule of `Membership` (wire/to_worker.py), point 2.

Who is in line for a model that is not in memory is not in this line: it is passed over.

Forming it takes time in the number of latents in line; while nothing changes it stands, and so does the step batch, which is
what of the window has begun.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from collodion.wire.jobs import Stage
from collodion.worker.latent import Latent


def window_of(line: Sequence[Latent], most: int) -> list[Latent]:
    """The leader of the line and who goes with it, `most` at most, in order of urgency."""
    to_go = (latent for latent in line if latent.to_go)
    leader = next(to_go, None)
    if leader is None:
        return []
    bound = most if leader.cap is None else min(most, leader.cap)
    with_it = (latent for latent in to_go if latent.job.key == leader.job.key)
    return [leader, *islice(with_it, bound - 1)] if bound > 0 else []


class Batch(NamedTuple):
    """A step batch: its latents, their states, and how many rows of the model call it takes."""

    latents: list[Latent]
    states: list[Any]
    rows: int

    @classmethod
    def of(cls, latents: list[Latent]) -> "Batch":
        """The batch of these latents, which have begun."""
        return cls(latents, [latent.state for latent in latents], sum(latent.job.rows for latent in latents))


class Window:
    """The window of a line, and its step batch. Device thread only.

    `beginning` have no first evaluation yet; `previewed` are those of the batch of which somebody wants to see previews.
    """

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._latents: list[Latent] = []
        self.beginning: list[Latent] = []
        self.batch = Batch.of([])
        self.previewed: list[Latent] = []

    def form(self, line: Sequence[Latent]) -> tuple[list[Latent], list[Latent]]:
        """Forms it anew; who entered it, and who left it with evaluations to go."""
        before, self._latents = self._latents, window_of(line, self._max_batch)
        then, now = set(map(id, before)), set(map(id, self._latents))
        entered = [latent for latent in self._latents if id(latent) not in then]
        left = [latent for latent in before if id(latent) not in now and latent.to_go]
        return entered, left

    def gather(self) -> None:
        """Sorts it into who has begun, which is the step batch, and who has not."""
        alive = [latent for latent in self._latents if latent.to_go]
        self.beginning = [latent for latent in alive if latent.stage is not Stage.DENOISING]
        self.batch = Batch.of([latent for latent in alive if latent.stage is Stage.DENOISING])
        self.previewed = [latent for latent in self.batch.latents if latent.job.order.preview_interval]
