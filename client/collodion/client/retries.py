"""When a call that failed is made again: only where the API says that it may help, each time later, and not for ever.

1. Only `ServerUnavailable` (UNAVAILABLE) and a `ServerBusy` that says when to come back (RESOURCE_EXHAUSTED with
   RetryInfo) are retried. `TimedOut` is not: whoever set the timeout meant it. Nor is `DeadlineInfeasible`: a later try
   has a later deadline, which is the caller's to accept.
2. Waiting doubles, and is spread over half its length, so that many clients of a server that comes back do not come
   as one.
3. Every call of the API can be made twice without harm: what creates a job carries a `request_id`.
"""

import random
from dataclasses import dataclass, field

from collodion.client.errors import CollodionError, DeadlineInfeasible, ServerBusy, ServerUnavailable, TimedOut


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long. `attempts` counts the first one: 1 never retries."""

    attempts: int = 4
    initial_s: float = 0.1
    factor: float = 2.0
    longest_s: float = 4.0
    """The longest that this policy waits by itself between two attempts."""
    patience_s: float = 30.0
    """A server that asks for a longer wait than this is not waited for: its error is raised."""


REATTACHING = RetryPolicy(attempts=13)
"""For about 30 s, the grace of a job whose frontend died."""


@dataclass
class Retries:
    """The attempts of one call."""

    policy: RetryPolicy
    _failed: int = field(default=0, init=False)

    def delay_s(self, error: CollodionError) -> float:
        """How long to wait before the next attempt.

        Raises:
            CollodionError: `error` itself, if there is to be no other attempt.
        """
        self._failed += 1
        asked_s = error.details.retry_after_s or 0.0
        if not retryable(error) or self._failed >= self.policy.attempts or asked_s > self.policy.patience_s:
            raise error
        return max(asked_s, self._backoff_s())

    def succeeded(self) -> None:
        """Forgets the failures before."""
        self._failed = 0

    def _backoff_s(self) -> float:
        whole = min(self.policy.initial_s * self.policy.factor ** (self._failed - 1), self.policy.longest_s)
        return random.uniform(whole / 2, whole)


def retryable(error: CollodionError) -> bool:
    """Whether the same call may succeed later."""
    if isinstance(error, DeadlineInfeasible):
        return False
    if isinstance(error, ServerBusy):
        return error.details.retry_after_s is not None
    return isinstance(error, ServerUnavailable) and not isinstance(error, TimedOut)
