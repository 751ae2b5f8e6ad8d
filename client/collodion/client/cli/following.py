"""A job's stream on the command line: shown, its pictures saved, its end turned into an exit code or an error."""

import contextlib
import tempfile
from collections.abc import Generator
from pathlib import Path

from rich.console import Console

from collodion.client.cli import plain
from collodion.client.cli.view import View
from collodion.client.client import Client
from collodion.client.errors import CollodionError
from collodion.client.events import Event, ImageReady
from collodion.client.result import Callbacks, Gathering, Generation


def prepare(directory: Path) -> None:
    """Makes the directory for pictures, so that a wrong one is noticed before anything is drawn.

    Raises:
        OSError: no picture could be saved in it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise OSError(f"pictures cannot be saved in {directory}: {error.strerror}") from error


def follow(
    events: Generator[Event, None, None], output: Path | None, *, as_json: bool, cancelling: Client | None = None
) -> Generation:
    """Shows `events` to their end and saves the pictures in `output`, if there is one.

    Standard output gets the paths, or with `as_json` one line for each event. Interrupted, it cancels the job with
    `cancelling`, if there is one; else leaving is a mere hang-up.

    Raises:
        CollodionError: the job came to nothing, or could not be followed.
        KeyboardInterrupt: the job was cancelled, or left.
    """
    gathering, job_id = Gathering(Callbacks()), ""
    view = View(Console(stderr=True, quiet=as_json))
    try:
        with contextlib.closing(events), view:
            for event in events:
                job_id = event.job_id
                view.take(event)
                _save(event, output, as_json)
                gathering.take(event)
    except KeyboardInterrupt:
        if cancelling and job_id:
            _cancel(cancelling, job_id, view)
        raise
    return gathering.result()


def _save(event: Event, output: Path | None, as_json: bool) -> None:
    path = event.image.save(output) if output and isinstance(event, ImageReady) else None
    if as_json:
        more = {"path": str(path)} if path else {}
        print(plain.event_line(event, **more), flush=True)
    elif path:
        print(path, flush=True)


def _cancel(client: Client, job_id: str, view: View) -> None:
    try:
        client.cancel(job_id)
    except CollodionError as error:
        # Hanging up has the same end, a grace later.
        view.say(f"job {job_id} is left to the server to cancel: {error.message}")
    else:
        view.say(f"job {job_id} is cancelled")
