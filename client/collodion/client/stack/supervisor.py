"""The processes of one server together. Polled, so that it needs no thread and its owner decides between two looks.

The order of stopping is the order of this file's `_WAVES`, each with its reason.
"""

import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from collodion.client.stack.child import Child, Program, Role
from collodion.client.stack.restarts import RestartPolicy

POLL_S = 0.05
_GRACE_S = 5.0  # for a frontend to notice that its drain has ended
_OTHERS_S = 10.0

_WAVES: tuple[tuple[Role, ...], ...] = (
    # Frontends first: they take no new work, and let the streams that run come to their end, for which the others are still needed.
    (Role.FRONTEND,),
    # Then the rest at once: nobody is left to whom their order could matter.
    (Role.SCHEDULER, Role.WORKER),
)


class Supervisor:
    """Starts `programs` and keeps them running.

    Args:
        log: file descriptor for the output of each process, by its name.
        say: told in one line whatever happens.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        run_dir: Path,
        *,
        log: Callable[[str], int],
        say: Callable[[str], None],
        policy: RestartPolicy = RestartPolicy(),
    ) -> None:
        self._children = [Child(program, run_dir, log(program.name), say, policy) for program in programs]
        self._say = say

    @property
    def names(self) -> list[str]:
        """The names of its processes."""
        return [child.program.name for child in self._children]

    @property
    def starting(self) -> list[str]:
        """The names of the processes that have not announced themselves yet."""
        return [child.program.name for child in self._children if child.facts is None]

    def facts(self, role: Role) -> list[dict[str, object]]:
        """What the processes of this role announced."""
        return [child.facts for child in self._children if child.program.role is role and child.facts is not None]

    def poll(self) -> None:
        """Starts what is to be started, and notices what happened. To be called every `POLL_S`, from one thread.

        Raises:
            StackError: a process cannot be kept running.
        """
        for child in self._children:
            child.poll()

    def stop(self, hurried: Callable[[], bool] = lambda: False) -> None:
        """Ends every process in order, and kills those that take too long, or all as soon as it is `hurried`.

        How long frontends may take, they have announced themselves.
        """
        drain_s = max((child.facts.get("drain_s", 0.0) for child in self._children if child.facts), default=0.0)
        for roles, patience_s in zip(_WAVES, (drain_s + _GRACE_S, _OTHERS_S), strict=True):
            self._stop([child for child in self._children if child.program.role in roles], patience_s, hurried)

    def _stop(self, wave: Iterable[Child], patience_s: float, hurried: Callable[[], bool]) -> None:
        running = [child for child in wave if child.running]
        for child in running:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + patience_s
        while any(child.running for child in running) and time.monotonic() < deadline and not hurried():
            time.sleep(POLL_S)
        for child in running:
            if child.running:
                self._say(f"{child.program.name} does not end and is killed")
                child.signal(signal.SIGKILL)
            child.wait()
