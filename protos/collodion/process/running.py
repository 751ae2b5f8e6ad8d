"""The directory of a running server: its private sockets, and a file by which each process says that it is ready and where."""

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collodion.process.config import ConfigError

_LONGEST_SOCKET_PATH = 100  # Linux allows 107 bytes, of which the longest of our socket names takes a part


def default_run_dir() -> Path:
    """`$XDG_RUNTIME_DIR/collodion`, or a directory of this user in the system's temporary directory."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "collodion" if runtime else Path(tempfile.gettempdir()) / f"collodion-{os.getuid()}"


def default_artifacts_dir() -> Path:
    """Where finished pictures lie: `$XDG_DATA_HOME/collodion/artifacts`, or the same below ~/.local/share."""
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "collodion" / "artifacts"


def prepare_run_dir(run_dir: Path) -> Path:
    """Makes `run_dir` if need be, for this user alone.

    Raises:
        ConfigError: it belongs to somebody else, others may write to it, or its path is too long for a socket.
    """
    run_dir = run_dir.resolve()  # not just absolute: "../.." from a deep directory would be too long for a socket
    if len(os.fsencode(run_dir / "frontend.sock")) > _LONGEST_SOCKET_PATH:
        raise ConfigError(f"run_dir {run_dir} is too long for a Unix socket; choose a shorter one")
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = run_dir.stat()
    if state.st_uid != os.getuid() or stat.S_IMODE(state.st_mode) & 0o022:
        raise ConfigError(f"run_dir {run_dir} has to belong to this user, and be writable by nobody else")
    return run_dir


def endpoint(run_dir: Path, peer: str) -> str:
    """Where the scheduler listens for `peer` ("frontend" or "worker")."""
    return f"ipc://{run_dir.resolve()}/{peer}.sock"


@contextlib.contextmanager
def announced(run_dir: Path, name: str, **facts: Any) -> Iterator[None]:
    """While inside, `run_dir/name.json` says that this process is ready: its pid, and `facts` (addresses)."""
    path = run_dir / f"{name}.json"
    draft = run_dir / f".{name}.{os.getpid()}"
    draft.write_text(json.dumps({"pid": os.getpid(), **facts}))
    draft.replace(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text())["pid"] == os.getpid():  # a successor may have announced itself already
                path.unlink()


def announcement(run_dir: Path, name: str) -> dict[str, Any] | None:
    """What the process announced, None while it is not ready."""
    try:
        said: dict[str, Any] = json.loads((run_dir / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    return said
