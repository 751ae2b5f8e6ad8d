"""Where accepted jobs are kept, so that they are durable before they are acknowledged.

A store may take its time, on a thread of its own: `save` only hands over, `saved` tells what has become durable since. In this
version jobs are in memory, durable at once and gone with the process.
"""

from collections.abc import Iterable
from typing import Protocol

from collodion.wire.to_frontend import JobView


class JobStore(Protocol):
    """Jobs by id, as their views; the last one saved counts."""

    def save(self, view: JobView) -> None:
        """Hands a job over to be stored; never waits."""

    def saved(self) -> tuple[str, ...]:
        """The ids of the jobs that became durable since this was last asked, in the order of their `save`."""

    def delete(self, job: str) -> None:
        """Hands over the wish that a job be forgotten; never waits."""

    def load(self) -> Iterable[JobView]:
        """Every job that is stored, by id."""


class MemoryStore:
    """Keeps jobs for as long as the process lives."""

    def __init__(self) -> None:
        self._views: dict[str, JobView] = {}
        self._saved: list[str] = []

    def save(self, view: JobView) -> None:
        """See JobStore."""
        self._views[view.job] = view
        self._saved.append(view.job)

    def saved(self) -> tuple[str, ...]:
        """See JobStore."""
        saved, self._saved = tuple(self._saved), []
        return saved

    def delete(self, job: str) -> None:
        """See JobStore."""
        self._views.pop(job, None)

    def load(self) -> Iterable[JobView]:
        """See JobStore."""
        return [self._views[job] for job in sorted(self._views)]
