"""The artifact store: where finished pictures lie. Workers put, frontends read, the scheduler prunes.

A key is `job/index.extension`. What is put under a key is whole or absent, never half-written, and durable when `put` returns.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class ArtifactMissing(LookupError):
    """Nothing is stored under this key: it was never put, or it was deleted after its time."""


class ArtifactStore(Protocol):
    """Named, immutable bytes."""

    def put(self, key: str, data: bytes) -> None:
        """Stores `data`; putting the same key again replaces it."""

    def chunks(self, key: str, chunk_bytes: int) -> Iterator[bytes]:
        """The bytes under `key`, piece by piece. Raises ArtifactMissing."""

    def prune(self, max_age_s: float, max_bytes: int) -> int:
        """Deletes what is older than `max_age_s`, then the oldest above `max_bytes` in all; returns how many."""


class DirectoryStore:
    """Artifacts as files below one directory, made durable by fsync and visible by rename."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._root.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, data: bytes) -> None:
        """See ArtifactStore. Raises OSError (disk full, no permission)."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_directory(path.parent)

    def chunks(self, key: str, chunk_bytes: int) -> Iterator[bytes]:
        """See ArtifactStore."""
        try:
            file = self._path(key).open("rb")
        except OSError as error:
            raise ArtifactMissing(key) from error
        with file:
            while chunk := file.read(chunk_bytes):
                yield chunk

    def prune(self, max_age_s: float, max_bytes: int) -> int:
        """See ArtifactStore."""
        files = sorted(self._files(), key=lambda entry: entry[0])
        total = sum(size for _, size, _ in files)
        oldest = time.time() - max_age_s
        deleted = 0
        for modified, size, path in files:
            if modified >= oldest and total <= max_bytes:
                break
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other images of the job may still be there
                path.parent.rmdir()
            total -= size
            deleted += 1
        return deleted

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        for path in self._root.glob("*/*"):
            with contextlib.suppress(OSError):  # a worker may be renaming its draft
                state = path.stat()
                yield state.st_mtime, state.st_size, path

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if len(parts) != 2 or any(part.startswith(".") or not part for part in parts) or "\0" in key:
            raise ArtifactMissing(key)
        return self._root.joinpath(*parts)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
