"""How long to wait for a model that is being loaded, and for how long. Pure: both clients ask it between two looks."""

from collodion.client.errors import ModelUnusable, TimedOut
from collodion.client.models import Model, Residency

_SOONEST_S = 0.05
_LATEST_S = 0.5
_OF_THE_REST = 0.1  # of what loading it takes
_LET_GO_S = 2.0  # what one of several frontends knows may be as old


class Awaited:
    """A model that is awaited from `now` on (seconds of any clock), for at most `timeout_s`; None: until it is there, has failed, or is
    not to be loaded any more.
    """

    def __init__(self, timeout_s: float | None, now: float) -> None:
        self._until = None if timeout_s is None else now + timeout_s
        self._kept = False
        self._let_go: float | None = None

    def pause_s(self, model: Model, now: float) -> float | None:
        """How long to wait before looking again; None: it is in memory.

        Raises:
            ModelUnusable: it could not be loaded, or somebody unloaded it. TimedOut: the time is over.
        """
        status = model.status
        if status.residency is Residency.RESIDENT:
            return None
        if status.residency is Residency.FAILED:
            raise ModelUnusable(status.failure, reason="MODEL_UNUSABLE")
        self._look_whether_kept(model, now)
        pause_s = min(_LATEST_S, max(_SOONEST_S, _OF_THE_REST * (status.load_s or 0.0) * (1.0 - status.progress)))
        if self._until is None:
            return pause_s
        if now >= self._until:
            raise TimedOut(f"the model {model.name} is not in memory yet; it is {_where(model)}")
        return min(pause_s, self._until - now)

    def _look_whether_kept(self, model: Model, now: float) -> None:
        """Once it was to be kept, it stays so, or it would be waited for in vain."""
        status = model.status
        if status.pinned or status.residency is Residency.UNSPECIFIED:  # then no worker says anything of it
            self._kept, self._let_go = self._kept or status.pinned, None
        elif self._kept and self._let_go is None:
            self._let_go = now
        elif self._let_go is not None and now - self._let_go >= _LET_GO_S:
            message = (
                f"the model {model.name} is not to be loaded any more: it was unloaded, or the server was restarted"
            )
            raise ModelUnusable(message, reason="MODEL_UNLOADED")


def _where(model: Model) -> str:
    if model.status.residency is Residency.LOADING:
        return f"loading, {model.status.progress:.0%} done"
    if model.status.residency is Residency.UNSPECIFIED:
        return "nowhere: no worker that has it is alive"
    return "on disk, and waits for room"
