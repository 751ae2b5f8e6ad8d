"""Runs every benchmark in turn, each in a process of its own, and keeps what they wrote in one folder."""

import argparse
import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    "step_gap",
    "join",
    "frontend_events",
    "sampler_update",
    "scheduler_cpu",
    "memory",
    "adapters",
    "many_models",
)


def main() -> int:
    """Returns the exit status: 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=BENCHMARKS, help=f"which (default: {' '.join(BENCHMARKS)})")
    parser.add_argument("--json", type=Path, default=Path(".runs"), metavar="FOLDER", help="default: .runs")
    arguments = parser.parse_args()
    arguments.json.mkdir(exist_ok=True)
    failed = [name for name in arguments.names if not _run(name, arguments.json)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, folder: Path) -> bool:
    print(f"=== {name}", flush=True)
    script = Path(__file__).with_name(f"{name}.py")
    return (
        subprocess.run([sys.executable, str(script), "--json", str(folder / f"{name}.json")], check=False).returncode
        == 0
    )


if __name__ == "__main__":
    sys.exit(main())
