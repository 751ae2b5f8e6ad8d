"""What is run, and in which order: cells, and turns in them.

Contenders take turns in every cell, each time another one first: what else the machine does hits all of them alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cell:
    """One set of conditions: so many users who each wait for an answer before they ask again, or arrivals at a load.

    `slo_scale` is None where requests bring no SLO of their own, and have that of their tier.
    """

    users: int | None = None
    load: float | None = None
    slo_scale: float | None = None

    @property
    def label(self) -> str:
        """For people."""
        scale = "" if self.slo_scale is None else f", SLO {self.slo_scale:g} × standalone"
        return (f"load {self.load:g}" if self.users is None else f"{self.users} users") + scale


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of one contender."""

    cell: Cell
    seed: int
    repeat: int
    label: str


def turns_of(cells: Sequence[Cell], seeds: Sequence[int], repeats: int, labels: Sequence[str]) -> list[Turn]:
    """All runs in their order."""
    turns: list[Turn] = []
    first = 0
    for repeat in range(repeats):
        for seed in seeds:
            for cell in cells:
                order = [*labels[first:], *labels[:first]]
                turns += [Turn(cell, seed, repeat, label) for label in order]
                first = (first + 1) % len(labels)
    return turns
