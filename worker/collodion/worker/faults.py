"""Whose fault it was: finds the guilty row of a batch that raised, and says in a failure's words what went wrong."""

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

from collodion.wire.jobs import Failure, Reason
from collodion.worker.latent import Latent
from collodion.worker.pipeline import LatentRefused

_log = logging.getLogger(__name__)


class Row(Protocol):
    """What a batch is made of: latents, or jobs to be encoded."""

    @property
    def job_id(self) -> str:
        """For the log."""


_Row = TypeVar("_Row", bound=Row)

_LONGEST_MESSAGE = 500  # characters of a foreign error that a client is shown


def try_rows(rows: list[_Row], work: Callable[[list[_Row]], None], fail: Callable[[_Row, Failure], None]) -> None:
    """Runs `work` on the rows; if it raises, on each alone, and those for which it raises again fail.

    `work` has changed nothing if it raises.
    """
    try:
        work(rows)
        return
    except Exception as error:  # families run foreign code: whatever it raises may cost one latent, never the loop
        if len(rows) == 1:
            fail(rows[0], failure_of(error, rows[0].job_id))
            return
        _log.warning("a batch raised; trying its rows one by one", extra={"error": repr(error), "rows": len(rows)})
    # Not before the error is gone: its traceback holds all that the batch had allocated, which the rows may need.
    for row in rows:
        try_rows([row], work, fail)


def failure_of(error: Exception, job: str) -> Failure:
    """What a client is told of an exception. One that nobody foresaw is logged whole."""
    if isinstance(error, LatentRefused):
        return error.failure
    if isinstance(error, MemoryError):
        return Failure(reason=Reason.OUT_OF_MEMORY, message="it does not fit the device's memory, even alone")
    _log.error("a latent raised", exc_info=error, extra={"job": job})
    return Failure(reason=Reason.WORKER_ERROR, message=f"{type(error).__name__}: {error}"[:_LONGEST_MESSAGE])


def non_finite(latent: Latent) -> Failure:
    """Of a latent that holds a number which is none."""
    message = f"the latent is not finite after {latent.evaluations} model calls"
    return Failure(reason=Reason.NON_FINITE_LATENT, message=message)
