"""From arguments to an exit code. Errors end as one sentence on standard error, never as a traceback."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from collodion.client.cli import deadlines, jobs, models
from collodion.client.cli.arguments import parser
from collodion.client.cli.exits import Exit, as_json, exit_of, sentence
from collodion.client.cli.foreign import shown
from collodion.client.errors import CollodionError, DeadlineInfeasible
from collodion.client.stack.errors import StackError


# Imported only when wanted: they need a Unix system, the client does not.
def _serve(arguments: argparse.Namespace) -> None:
    from collodion.client.cli.serve import serve

    serve(arguments)


def _demo(arguments: argparse.Namespace) -> None:
    from collodion.client.cli.demo import demo

    demo(arguments)


def _profile(arguments: argparse.Namespace) -> None:
    from collodion.client.cli.profile import profile

    profile(arguments)


def _convert(arguments: argparse.Namespace) -> None:
    from collodion.client.cli.convert import convert

    convert(arguments)


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "generate": jobs.generate,
    "jobs": jobs.jobs,
    "watch": jobs.watch,
    "why": jobs.why,
    "cancel": jobs.cancel,
    "models": models.models,
    "adapters": models.adapters,
    "tiers": jobs.tiers,
    "serve": _serve,
    "demo": _demo,
    "profile": _profile,
    "convert": _convert,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command `collodion`; `argv` without its name, by default this process's. Returns the exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: `>&-`
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # for as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a prompt may hold what the terminal cannot show
    arguments = parser().parse_args(argv)
    # A shell that starts us in the background has Ctrl-C ignored; one that is sent on purpose is meant.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _COMMANDS[arguments.command](arguments)
        sys.stdout.flush()  # here, where a reader that has left is still caught
    except CollodionError as error:
        _complain(as_json(error) if getattr(arguments, "json", False) else _advice(error, arguments))
        return exit_of(error)
    except StackError as error:
        _complain(f"collodion: {error}")
        return Exit.YOURS if error.is_yours else Exit.SERVER
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _complain(f"collodion: {error}")
        return Exit.YOURS
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return Exit.OK


def _advice(error: CollodionError, arguments: argparse.Namespace) -> str:
    offers = deadlines.offers(error, arguments) if isinstance(error, DeadlineInfeasible) else []
    return "\n".join([sentence(error), *map(shown, offers)])


def _complain(text: str) -> None:
    print(text, file=sys.stderr)
