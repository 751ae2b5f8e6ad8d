"""Latents that do not run for now, and where their states lie.

1. A latent that leaves the window keeps its state, in memory of its own on the device, so that it goes on for free.
2. Together the states of those that do not run take no more than the budget: beyond it the least urgent are spilled to host
   memory. They come back when they enter the window, and draw the same picture.
3. What lies on the host stays there until its turn, though there may be room again: it would only go back and forth.
"""

from collections.abc import Callable, Iterable, Sequence

from collodion.wire.jobs import Failure, Stage
from collodion.worker.faults import try_rows
from collodion.worker.latent import Latent


class Parking:
    """Device thread only. `fail` ends a latent whose state cannot be moved."""

    def __init__(self, budget_bytes: int, fail: Callable[[Latent, Failure], None]) -> None:
        self._budget_bytes = budget_bytes
        self._fail = fail

    def change(self, entered: Sequence[Latent], left: Sequence[Latent], held: Iterable[Latent]) -> None:
        """These entered the window and those left it. held: everything, the most urgent first."""
        begun = [latent for latent in left if latent.state is not None]
        for latent in begun:
            try_rows([latent], _compact, self._fail)
        for latent in left:
            if latent.to_go:
                latent.stage = Stage.PARKED
        for latent in entered:
            latent.stage = Stage.ENCODING if latent.state is None else Stage.DENOISING
        if begun:
            self._keep_to_the_budget(held)  # first: what comes back needs the room
        for latent in entered:
            if latent.spilled_bytes:
                try_rows([latent], _recall, self._fail)

    def _keep_to_the_budget(self, held: Iterable[Latent]) -> None:
        idle = [one for one in held if one.stage is Stage.PARKED and one.state is not None and not one.spilled_bytes]
        sizes = [latent.job.loaded.state_bytes(latent.state) for latent in idle]
        excess = sum(sizes) - self._budget_bytes
        for latent, size in zip(reversed(idle), reversed(sizes), strict=True):
            if excess <= 0:
                return
            try_rows([latent], _spill, self._fail)
            excess -= size


def _compact(rows: list[Latent]) -> None:
    for latent in rows:
        latent.job.loaded.park(latent.state)


def _spill(rows: list[Latent]) -> None:
    for latent in rows:
        size = latent.job.loaded.state_bytes(latent.state)
        latent.job.loaded.spill(latent.state)
        latent.spilled_bytes = size


def _recall(rows: list[Latent]) -> None:
    for latent in rows:
        latent.job.loaded.recall(latent.state)
        latent.spilled_bytes = 0
