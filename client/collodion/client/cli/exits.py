"""What the command's exit code says, and how an error reads."""

from enum import IntEnum

from collodion.client.cli import plain
from collodion.client.cli.foreign import shown
from collodion.client.errors import (
    AccessDenied,
    CollodionError,
    DeadlineInfeasible,
    InvalidRequest,
    JobError,
    NotFound,
    ServerBusy,
    ServerUnavailable,
)


class Exit(IntEnum):
    """Exit codes."""

    OK = 0
    YOURS = 2
    BUSY = 3
    SERVER = 4
    INFEASIBLE = 5
    INTERRUPTED = 130


EXPLAINED = """exit codes:
  0    done
  2    the command, the request or a name in it is wrong
  3    the server is busy or cannot be reached: try again later
  4    the job failed, was cancelled or was lost, or the server made an error
  5    the deadline cannot be promised; what can be is said
  130  interrupted (Ctrl-C); what `generate` had under way is cancelled
"""


def exit_of(error: CollodionError) -> Exit:
    """By whose fault it is."""
    match error:
        case InvalidRequest() | NotFound() | AccessDenied():
            return Exit.YOURS
        case DeadlineInfeasible():
            return Exit.INFEASIBLE
        case ServerBusy() | ServerUnavailable():
            return Exit.BUSY
        case _:
            return Exit.SERVER


def sentence(error: CollodionError) -> str:
    """The error for a person: a sentence, and a line for each field that is wrong."""
    lines = [f"collodion: {_subject(error)}{error.message}{_hint(error)}"]
    lines += [f"  {violation.field}: {violation.description}" for violation in error.details.violations]
    return "\n".join(map(shown, lines))


def as_json(error: CollodionError) -> str:
    """The error for a script: one line."""
    return plain.line(
        event="error",
        error=type(error).__name__,
        message=error.message,
        reason=error.reason,
        code=error.code,
        violations=error.details.violations,
        retry_after_s=error.details.retry_after_s,
        offer=error.offer if isinstance(error, DeadlineInfeasible) else None,
        job_id=error.job_id if isinstance(error, JobError) else None,
    )


def _subject(error: CollodionError) -> str:
    return f"job {error.job_id}: " if isinstance(error, JobError) and error.job_id not in error.message else ""


def _hint(error: CollodionError) -> str:
    if error.details.retry_after_s is not None:
        return f" (try again in {error.details.retry_after_s:.0f} s)"
    if isinstance(error, ServerUnavailable) and not error.reason:
        return " (is it running? `collodion serve` starts one; --server or COLLODION_SERVER says where it is)"
    return ""
