"""One process of the server: started, looked after, ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from collodion.client.stack import die_with_parent
from collodion.client.stack.restarts import RestartPolicy, Restarts, described
from collodion.process.running import announcement


class Role(Enum):
    """What a process does; the value is its module."""

    SCHEDULER = "collodion.scheduler"
    FRONTEND = "collodion.frontend"
    WORKER = "collodion.worker"


@dataclass(frozen=True)
class Program:
    """A process to run: the name under which it announces itself, and its command line."""

    name: str
    role: Role
    command: tuple[str, ...]


class Child:
    """Runs `program`, again and again until it is stopped.

    Its output goes to the file descriptor `log`. It is in a session of its own, so that Ctrl-C in the terminal
    reaches the supervisor only, which stops the processes in their order.
    """

    def __init__(
        self, program: Program, run_dir: Path, log: int, say: Callable[[str], None], policy: RestartPolicy
    ) -> None:
        self.program = program
        self._run_dir = run_dir
        self._log = log
        self._say = say
        self._restarts = Restarts(program.name, policy)
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._due = 0.0
        self.facts: dict[str, Any] | None = None

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def poll(self) -> None:
        """Notices that it became ready, that it ended, that it is to be started.

        Raises:
            StackError: it is not to be started again.
        """
        now = time.monotonic()
        if self._process is None:
            if now >= self._due:
                self._start(now)
        elif (code := self._process.poll()) is not None:
            self._ended(code, now)
        elif self.facts is None:
            self._look(now)

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it is there."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self) -> None:
        """Waits for its end, which has to be certain."""
        if self._process is not None:
            self._process.wait()

    def _start(self, now: float) -> None:
        # -I -S: nothing but the standard library, so that it starts at once.
        launcher = (sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()))
        self._process = subprocess.Popen(  # noqa: S603  # our own command line
            (*launcher, *self.program.command),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._started, self.facts = now, None

    def _ended(self, code: int, now: float) -> None:
        was_ready, self.facts, self._process = self.facts is not None, None, None
        delay_s = self._restarts.delay_s(code, now - self._started, was_ready)
        self._due = now + delay_s
        self._say(f"{self.program.name} ended with {described(code)}; it is started again in {delay_s:.1f} s")

    def _look(self, now: float) -> None:
        said = announcement(self._run_dir, self.program.name)
        # A predecessor that was killed leaves its announcement behind.
        if said is not None and self._process is not None and said.get("pid") == self._process.pid:
            self.facts = said
            self._say(f"{self.program.name} is ready after {now - self._started:.1f} s")
