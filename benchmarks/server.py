"""A whole server as people run it, `collodion serve`, for benchmarks that need one."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from collodion.process.running import announcement


@dataclass(frozen=True)
class Server:
    """A running server. `log` holds the JSON lines of all its processes."""

    address: str
    run_dir: Path
    log: Path

    def resident_mib(self) -> dict[str, float]:
        """Resident memory of each process, in MiB."""
        names = ("frontend-0", "scheduler", "worker-0")
        pids = {name: (announcement(self.run_dir, name) or {})["pid"] for name in names}
        return {name: psutil.Process(pid).memory_info().rss / 2**20 for name, pid in pids.items()}

    def lines(self) -> Iterator[dict[str, Any]]:
        """What the processes logged so far."""
        for line in self.log.read_text().splitlines():
            if line.startswith("{"):
                yield json.loads(line)


@contextlib.contextmanager
def running_server(*flags: str, log_level: str = "warning") -> Iterator[Server]:
    """Starts a server on a free loopback port, and stops it."""
    with tempfile.TemporaryDirectory(prefix="cb") as folder:
        run_dir, log = Path(folder) / "run", Path(folder) / "log"
        ports = [f"--set={process}.metrics_port=0" for process in ("frontend", "scheduler", "worker")]
        own = [f"--run-dir={run_dir}", f"--artifacts={folder}/artifacts", "--listen=127.0.0.1:0"]
        command = [sys.executable, "-m", "collodion.client.cli", "serve", *own, *ports, *flags]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--log-format=json", f"--log-level={log_level}"], stdout=subprocess.PIPE, stderr=output
            )
            try:
                assert process.stdout is not None
                ready = process.stdout.readline().decode()
                if not ready.startswith("ready: "):
                    raise RuntimeError(log.read_text())
                yield Server(ready.split()[1], run_dir, log)
            finally:
                process.terminate()
                process.communicate()
