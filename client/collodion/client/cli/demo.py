"""`collodion demo`: a whole server in a private directory, one picture through it, and all gone again."""

import argparse
import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from collodion.client.channel import DEFAULT_SERVER
from collodion.client.cli.following import follow, prepare
from collodion.client.cli.waiting import Waiting
from collodion.client.client import Client
from collodion.client.errors import CollodionError
from collodion.client.stack.child import Role
from collodion.client.stack.errors import StackError
from collodion.client.stack.lock import owned
from collodion.client.stack.programs import Stack
from collodion.client.stack.supervisor import POLL_S, Supervisor

_TAIL_LINES = 25


def demo(arguments: argparse.Namespace) -> None:
    """Draws the prompt and prints the path of its picture.

    Raises:
        StackError: the server could not be run. CollodionError: the picture could not be drawn. Both after the last
            lines of the processes' logs.
    """
    prepare(arguments.output)
    free = ("frontend", "scheduler", "worker")
    with tempfile.TemporaryDirectory(prefix="collodion-demo-") as directory:
        stack = Stack(
            models=arguments.model or (),
            listen="127.0.0.1:0",
            artifacts=Path(directory) / "artifacts",
            drain_s=1.0,
            settings=[(process, "metrics_port", "0") for process in free],
        )
        stack.check_installation()
        with owned(Path(directory)) as run_dir, _logs(run_dir) as log:
            waiting = Waiting()
            supervisor = Supervisor(stack.programs(run_dir), run_dir, log=log, say=waiting.say)
            waiting.say(f"starting {', '.join(supervisor.names)}; loading a model takes a while")
            try:
                _wait(supervisor, lambda: waiting.done(supervisor.starting))
                server = str(supervisor.facts(Role.FRONTEND)[0].get("grpc", DEFAULT_SERVER))
                _draw(arguments, server, supervisor)
            except (StackError, CollodionError):
                waiting.clear()
                _show_tails(run_dir)
                raise
            finally:
                waiting.say("stopping the server")
                supervisor.stop()


def _draw(arguments: argparse.Namespace, server: str, supervisor: Supervisor) -> None:
    """Draws on a thread, while this one keeps the server running."""
    options = {name: value for name in ("steps", "seed") if (value := getattr(arguments, name)) is not None}
    with Client(server) as client, ThreadPoolExecutor(1) as pool:
        events = client.stream(arguments.prompt, preview_interval=1, **options)
        drawing = pool.submit(follow, events, arguments.output, as_json=False)
        try:
            _wait(supervisor, drawing.done)
        finally:
            client.close()  # which ends the thread, if it still draws
    drawing.result()


def _wait(supervisor: Supervisor, condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not condition():
        supervisor.poll()
        pause.wait(POLL_S)


@contextlib.contextmanager
def _logs(run_dir: Path) -> Iterator[Callable[[str], int]]:
    """Opens `NAME.log` in `run_dir` for each process."""
    with contextlib.ExitStack() as files:

        def opened(name: str) -> int:
            descriptor = os.open(run_dir / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            files.callback(os.close, descriptor)
            return descriptor

        yield opened


def _show_tails(run_dir: Path) -> None:
    for log in sorted(run_dir.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        print(f"--- the last lines of {log.stem}", *lines, sep="\n", file=sys.stderr)
