"""The artifact store: where finished pictures lie, and the pictures that jobs begin from. The scheduler prunes.

1. A key is `job/index.extension` for what workers put and frontends read, and `uploads/sha256.png` for what frontends put and workers read.
2. What is put under a key is whole or absent, never half-written, and durable when `put` returns.
3. An upload is named after its content, so that all who send the same picture share one. A frontend makes it young again before it submits
   a job; pruning leaves what is young, and what the scheduler says that unfinished jobs begin from.
"""

import contextlib
import os
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

_UPLOADS = "uploads"
_YOUNG_S = 60.0  # a job that needs an upload is in the scheduler's hands long before


def upload_key(sha256: str) -> str:
    """The key of an upload; `sha256` is that of what is stored, lower-case hexadecimal."""
    return f"{_UPLOADS}/{sha256}.png"


def upload_sha256(key: str) -> str:
    """The SHA-256 that an upload's key names; empty for no key."""
    return key.removeprefix(f"{_UPLOADS}/").removesuffix(".png")


class ArtifactMissing(LookupError):
    """Nothing is stored under this key: it was never put, or it was deleted after its time."""


class ArtifactStore(Protocol):
    """Named, immutable bytes."""

    def put(self, key: str, data: bytes) -> None:
        """Stores `data`; putting the same key again replaces it."""

    def chunks(self, key: str, chunk_bytes: int) -> Iterator[bytes]:
        """The bytes under `key`, piece by piece. Raises ArtifactMissing."""

    def keep(self, key: str) -> bool:
        """Makes what is stored as young as if it were put now; whether there is anything."""

    def prune(self, max_age_s: float, max_bytes: int, needed: Collection[str] = ()) -> int:
        """Deletes what is older than `max_age_s`, then the oldest above `max_bytes` in all; returns how many.

        Uploads stay whose keys are `needed`, and those that were put or kept within the last minute.
        """


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

    def keep(self, key: str) -> bool:
        """See ArtifactStore. Raises OSError (no permission)."""
        try:
            os.utime(self._path(key))
        except (FileNotFoundError, NotADirectoryError, ArtifactMissing):
            return False
        return True

    def prune(self, max_age_s: float, max_bytes: int, needed: Collection[str] = ()) -> int:
        """See ArtifactStore."""
        uploads = self._root / _UPLOADS
        spared = {uploads / key.removeprefix(f"{_UPLOADS}/") for key in needed}
        files = sorted(self._files(), key=lambda entry: entry[0])
        total = sum(size for _, size, _ in files)
        oldest = time.time() - max_age_s
        deleted = 0
        for modified, size, path in files:
            if modified >= oldest and total <= max_bytes:
                break
            if path.parent == uploads:
                if path in spared or _is_young(path):
                    continue
                path.unlink(missing_ok=True)
            else:
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


def _is_young(path: Path) -> bool:
    """Looked at anew: a frontend may have kept it since the directory was read."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime > time.time() - _YOUNG_S
    return False


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
