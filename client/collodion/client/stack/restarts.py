"""Whether and when a process that ended is started again. Pure.

1. A process that ended is started again, after a pause that doubles each time and is short again once it has run
   well.
2. Exit code 2 is a wrong setting: starting again would not help.
3. Neither does it when a process has ended several times in a row without ever being ready.
"""

from dataclasses import dataclass, field

from collodion.client.stack.errors import StackError

BAD_CONFIGURATION = 2


@dataclass(frozen=True)
class RestartPolicy:
    """Pauses in seconds. `well_s`: who has run this long has run well. `attempts`: starts in a row that may fail."""

    initial_s: float = 0.2
    factor: float = 2.0
    longest_s: float = 10.0
    well_s: float = 30.0
    attempts: int = 4


@dataclass
class Restarts:
    """The ends of one process."""

    name: str
    policy: RestartPolicy
    _ends: int = field(default=0, init=False)
    _failed_starts: int = field(default=0, init=False)

    def delay_s(self, code: int, ran_s: float, was_ready: bool) -> float:
        """How long to wait before it is started again, having ended with `code` (negative: the signal).

        Raises:
            StackError: it is not to be started again.
        """
        if code == BAD_CONFIGURATION:
            raise StackError(f"{self.name} refuses its settings (see its last lines above)", is_yours=True)
        self._failed_starts = 0 if was_ready else self._failed_starts + 1
        if self._failed_starts >= self.policy.attempts:
            raise StackError(
                f"{self.name} ended {self._failed_starts} times before it was ready, last with {described(code)}",
                is_yours=False,
            )
        self._ends = 1 if ran_s >= self.policy.well_s else self._ends + 1
        return min(self.policy.initial_s * self.policy.factor ** (self._ends - 1), self.policy.longest_s)


def described(code: int) -> str:
    """A process's end in words."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"
