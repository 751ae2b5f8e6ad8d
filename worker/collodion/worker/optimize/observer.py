"""Whoever is told what the fast engine did: the worker's metrics, or nobody."""

from collections.abc import Callable
from typing import Protocol


class Observer(Protocol):
    """For one model. Any thread."""

    def fell_back(self, reason: str) -> None:
        """A call ran eagerly though it should not have. reason: one of a few words, such as "not_ready"; docs/metrics.md has all."""

    def made_ready(self, what: str, seconds: float) -> None:
        """Shapes were made ready: "compiled" or "captured"."""

    def recompiled(self) -> None:
        """Something was compiled after its model was made ready."""

    def reused(self, evaluations: int) -> None:
        """So many latents took their deep blocks' output from their step cache."""

    def read(self, encoded: int, cached: int) -> None:
        """So many prompts were encoded, and so many had been before."""

    def squeezed(self, how: str) -> None:
        """A batch did not fit the device's memory, and was decoded "sliced" or "tiled"."""


class Unobserved:
    """Tells nobody."""

    def fell_back(self, reason: str) -> None:
        """See Observer."""

    def made_ready(self, what: str, seconds: float) -> None:
        """See Observer."""

    def recompiled(self) -> None:
        """See Observer."""

    def reused(self, evaluations: int) -> None:
        """See Observer."""

    def read(self, encoded: int, cached: int) -> None:
        """See Observer."""

    def squeezed(self, how: str) -> None:
        """See Observer."""


ObserverFor = Callable[[str], Observer]
"""The observer of the model that has this name."""


def unobserved(_: str) -> Observer:
    """An ObserverFor that tells nobody of any model."""
    return Unobserved()
