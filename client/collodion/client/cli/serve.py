"""`collodion serve`: all processes on this machine, one command, one Ctrl-C."""

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Mapping
from types import FrameType

from collodion.client.cli.waiting import Waiting
from collodion.client.stack.child import Role
from collodion.client.stack.lock import owned
from collodion.client.stack.programs import Stack
from collodion.client.stack.supervisor import POLL_S, Supervisor
from collodion.process.running import announced, default_run_dir


def serve(arguments: argparse.Namespace) -> None:
    """Runs the server until SIGINT or SIGTERM.

    Raises:
        StackError: it cannot be run, or one of its processes cannot be kept running.
    """
    stack = Stack(
        models=arguments.model or (),
        models_dir=arguments.models_dir,
        devices=arguments.device or (),
        optimize=arguments.optimize or (),
        listen=arguments.listen or "",
        frontends=arguments.frontends,
        drain_s=arguments.drain,
        policy=arguments.policy or "",
        artifacts=arguments.artifacts,
        config=arguments.config,
        log_format=arguments.log_format or "",
        log_level=arguments.log_level or "",
        settings=arguments.settings,
    )
    stack.check_installation()
    with owned(arguments.run_dir or default_run_dir()) as run_dir, _Stopping() as stopping:
        waiting = Waiting()
        programs = stack.programs(run_dir)
        supervisor = Supervisor(programs, run_dir, log=lambda _: sys.stderr.fileno(), say=waiting.say)
        waiting.say(f"starting {', '.join(supervisor.names)}; loading a model takes a while")
        try:
            if _until(lambda: waiting.done(supervisor.starting), supervisor, stopping):
                with announced(run_dir, "serve", grpc=_addresses(supervisor)):
                    print(_ready_line(supervisor), flush=True)
                    _until(lambda: False, supervisor, stopping)
        finally:
            waiting.say("stopping; Ctrl-C again to kill")
            supervisor.stop(stopping.hurried)
    waiting.say("stopped")


def _until(condition: Callable[[], bool], supervisor: Supervisor, stopping: "_Stopping") -> bool:
    """Keeps the processes running until the condition holds (True), or they are to stop (False)."""
    while not condition():
        if stopping.wait(POLL_S):
            return False
        supervisor.poll()
    return True


def _addresses(supervisor: Supervisor) -> list[str]:
    return sorted({str(facts.get("grpc", "")) for facts in supervisor.facts(Role.FRONTEND)})


def _ready_line(supervisor: Supervisor) -> str:
    workers = [f"{_loaded(facts)} on {facts.get('device')}" for facts in supervisor.facts(Role.WORKER)]
    return f"ready: {' '.join(_addresses(supervisor))} ({'; '.join(workers)})"


def _loaded(facts: Mapping[str, object]) -> str:
    models = facts.get("models")
    return ", ".join(map(str, models)) if isinstance(models, list) and models else "no model loaded yet"


class _Stopping:
    """Counts SIGINT and SIGTERM: the first one means stop, the second one at once."""

    def __init__(self) -> None:
        # A number and no Event: a signal handler that takes a lock may wait for the thread that it interrupted.
        self._count = 0
        self._restoring = contextlib.ExitStack()

    def __enter__(self) -> "_Stopping":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._restoring.callback(signal.signal, number, signal.signal(number, self._came))
        return self

    def __exit__(self, *exc: object) -> None:
        self._restoring.close()

    def wait(self, seconds: float) -> bool:
        """Whether the first one came; waits for `seconds` if not."""
        if not self._count:
            time.sleep(seconds)
        return self._count > 0

    def hurried(self) -> bool:
        """Whether the second one came."""
        return self._count > 1

    def _came(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1
