"""What was measured so far: on the disk after everything that is new, so that a run that is killed keeps it."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_QUIET_S = 2.0  # longer than this nobody waits without a line


class Results:
    """`figures` is the document's; whoever adds to it calls `save`."""

    def __init__(self, folder: Path, machine: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.figures: dict[str, Any] = {}
        self._machine = machine

    @property
    def document(self) -> dict[str, Any]:
        """As common.report has it."""
        return {"benchmark": "engine", "environment": dict(self._machine), "figures": self.figures}

    def save(self) -> None:
        """Whoever reads the file finds the old document or the new one."""
        file, draft = self.folder / "engine.json", self.folder / "engine.json.part"
        draft.write_text(json.dumps(self.document, indent=1, allow_nan=False) + "\n")
        draft.replace(file)


class Progress:
    """Lines on standard error: what is begun, and where a long thing stands."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def begin(self, what: str) -> None:
        """Said at once."""
        self._said = time.monotonic()
        print(f"[{self.elapsed_s:5.0f} s] {what}", file=sys.stderr, flush=True)

    def go_on(self, what: str) -> None:
        """Said if nothing was for two seconds."""
        if time.monotonic() - self._said > _QUIET_S:
            self.begin(what)
