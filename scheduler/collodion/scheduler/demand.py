"""Which models are asked for, and since when nobody provides them.

Asked for is a model that latents wait for, one that somebody was refused a promise for want of and may come again for, and one that
LoadModel pinned and that no worker has yet. (What is held, or in a worker's line, has its model already.)
"""

from collections.abc import Callable, Iterable

from collodion.scheduler.backlog import Backlog
from collodion.scheduler.job import Job


class Demand:
    """`pins` are the models that LoadModel pinned, each with the peer whose copy is kept, None until there is one.

    `since` says of each model that is asked for and not provided, since when (Unix seconds).
    """

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self._in_vain: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self.pins: dict[str, bytes | None] = {}
        self.since: dict[str, float] = {}

    def asked(self, model: str, now: float) -> None:
        """Somebody asks for it now."""
        self._last[model] = now

    def refused(self, model: str, until: float) -> None:
        """Somebody was refused for want of it, and may come again until then (Unix seconds)."""
        self._in_vain[model] = max(until, self._in_vain.get(model, 0.0))

    def last(self, model: str) -> float:
        """When it was asked for last (Unix seconds); 0 if never."""
        return self._last.get(model, 0.0)

    def models(self, now: float) -> set[str]:
        """All that are asked for."""
        if any(until <= now for until in self._in_vain.values()):
            self._in_vain = {model: until for model, until in self._in_vain.items() if until > now}
        return {*self.waited_for(), *self._in_vain, *(model for model, peer in self.pins.items() if peer is None)}

    def waited_for(self) -> list[str]:
        """Those that latents wait for."""
        return list(self._backlog.models())

    def lines(self, model: str) -> Iterable[tuple[int, Job]]:
        """For each batch key that waits for the model: how many latents, and a job of them."""
        return ((count, head.job) for _, count, head in self._backlog.keys(model))

    def note(self, asked: set[str], is_provided: Callable[[str], bool], now: float) -> list[str]:
        """Brings `since` up to date; those in it, the longest first."""
        self.since = {model: self.since.get(model, now) for model in asked if not is_provided(model)}
        return sorted(self.since, key=lambda model: (self.since[model], model))
