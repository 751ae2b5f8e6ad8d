"""One server for each run directory."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from collodion.client.stack.errors import StackError
from collodion.process.config import ConfigError
from collodion.process.running import prepare_run_dir


@contextlib.contextmanager
def owned(run_dir: Path) -> Iterator[Path]:
    """While inside, `run_dir` (made if need be; returned as an absolute path) is this process's alone.

    The lock is the kernel's, so it ends with its holder however that ends.

    Raises:
        StackError: another server runs in it, or it cannot be used.
    """
    try:
        run_dir = prepare_run_dir(run_dir)
    except (ConfigError, OSError) as error:
        raise StackError(str(error), is_yours=True) from error
    with (run_dir / "serve.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StackError(
                f"another server runs in {run_dir}; stop it, or choose another --run-dir and --listen", is_yours=True
            ) from error
        yield run_dir
