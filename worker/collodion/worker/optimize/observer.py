"""Whoever is told what the fast engine did: the worker's metrics, or nobody."""

from collections.abc import Callable


class Observer:
    """For one model; any thread. This one tells nobody: whoever wants to know of something has a method for it."""

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


ObserverFor = Callable[[str], Observer]
"""The observer of the model that has this name."""


def unobserved(_: str) -> Observer:
    """An ObserverFor that tells nobody of any model."""
    return Observer()
