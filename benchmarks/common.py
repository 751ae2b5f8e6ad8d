"""What every benchmark prints beside its figures: the machine, the versions, the commit."""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("torch", "diffusers", "grpcio", "pyzmq", "msgspec", "protobuf")


def environment() -> dict[str, Any]:
    """Machine, versions and commit; `dirty` if the working tree differs from the commit."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _git("rev-parse", "--short", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Median and range of repeated measurements, in their own unit."""
    return {"median": statistics.median(samples), "least": min(samples), "most": max(samples), "runs": len(samples)}


def parser(description: str) -> argparse.ArgumentParser:
    """A command line with `--json FILE`."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", type=Path, metavar="FILE", help="also write figures and environment to FILE")
    return made


def report(name: str, figures: dict[str, Any], file: Path | None) -> None:
    """Prints figures and environment, and writes them to `file` if there is one."""
    result = {"benchmark": name, "environment": environment(), "figures": figures}
    text = json.dumps(result, indent=1)
    print(text)
    if file is not None:
        file.write_text(text + "\n")


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    return done.stdout.strip()
