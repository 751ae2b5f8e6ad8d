"""One moving line on a terminal that says what is still awaited; nothing elsewhere.

It is drawn by whoever polls, not by a thread, and leaves the cursor at its own start: the log lines that processes write
to the same terminal take its place instead of being appended to it.
"""

import sys
import time
from collections.abc import Sequence

from rich.console import Console

_FRAMES = "|/-\\"
_FRAMES_PER_S = 8
_CLEARED = "\r\x1b[2K"


class Waiting:
    """The line, on standard error, and those that stay above it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._moves = self._console.is_terminal and not self._console.is_dumb_terminal
        self._since = time.monotonic()
        self._shown = False

    def done(self, names: Sequence[str]) -> bool:
        """Whether nothing is awaited any more; shows the names of what is."""
        if names and self._moves:
            waited_s = time.monotonic() - self._since
            frame = _FRAMES[int(waited_s * _FRAMES_PER_S) % len(_FRAMES)]
            line = f"{frame} waiting for {', '.join(names)} ({waited_s:.0f} s)"
            self._write(f"{_CLEARED}{line[: self._console.width - 1]}\r")
            self._shown = True
        if not names:
            self.clear()
        return not names

    def say(self, line: str) -> None:
        """A line about the server that stays, in the place of the moving one."""
        self.clear()
        print(f"collodion: {line}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Takes the moving line away."""
        if self._shown:
            self._write(_CLEARED)
            self._shown = False

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()
