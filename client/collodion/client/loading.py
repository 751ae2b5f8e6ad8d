"""How long to wait for a model that is being loaded, and for how long. Pure: both clients ask it between two looks."""

from collodion.client.errors import ModelUnusable, TimedOut
from collodion.client.models import Model, Residency

_SOONEST_S = 0.05
_LATEST_S = 0.5
_OF_THE_REST = 0.1  # of what loading it takes


class Awaited:
    """A model that is awaited from `now` on (seconds of any clock), for at most `timeout_s`; None: until it is there or has failed."""

    def __init__(self, timeout_s: float | None, now: float) -> None:
        self._until = None if timeout_s is None else now + timeout_s

    def pause_s(self, model: Model, now: float) -> float | None:
        """How long to wait before looking again; None: it is in memory.

        Raises:
            ModelUnusable: it could not be loaded. TimedOut: the time is over.
        """
        status = model.status
        if status.residency is Residency.RESIDENT:
            return None
        if status.residency is Residency.FAILED:
            raise ModelUnusable(status.failure, reason="MODEL_UNUSABLE")
        pause_s = min(_LATEST_S, max(_SOONEST_S, _OF_THE_REST * (status.load_s or 0.0) * (1.0 - status.progress)))
        if self._until is None:
            return pause_s
        if now >= self._until:
            raise TimedOut(f"the model {model.name} is not in memory yet; it is {_where(model)}")
        return min(pause_s, self._until - now)


def _where(model: Model) -> str:
    if model.status.residency is Residency.LOADING:
        return f"loading, {model.status.progress:.0%} done"
    return "on disk, and waits for room"
