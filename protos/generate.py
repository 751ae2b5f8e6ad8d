"""Generates the Python code of the public API beside its .proto files; `--check` only compares, and fails on a difference.

Run by `make protos` and `make check` in an environment of its own (protos/requirements.txt).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PACKAGE = Path("collodion/v1")


def main() -> int:
    """Returns the exit status: 1 if `--check` found stale code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with what is committed, write nothing")
    if not parser.parse_args().check:
        for stale in _generated(ROOT):
            (ROOT / PACKAGE / stale).unlink()
        _generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as fresh:
        _generate(Path(fresh))
        return _compare(_generated(Path(fresh)), _generated(ROOT))


def _generate(out: Path) -> None:
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / PACKAGE).glob("*.proto"))
    services = [source for source in sources if "\nservice " in (ROOT / source).read_text()]
    _protoc(sources, f"--python_out={out}", f"--mypy_out=quiet:{out}")
    _protoc(services, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}")


def _protoc(sources: list[str], *outputs: str) -> None:
    # The mypy plugins lie beside this interpreter.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, *sources]
    subprocess.run(command, check=True, cwd=ROOT, env=environment)  # noqa: S603


def _generated(root: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (root / PACKAGE).glob("*_pb2*.py*")}


def _compare(fresh: dict[str, str], committed: dict[str, str]) -> int:
    stale = sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))
    if stale:
        print(f"stale in {PACKAGE}: {', '.join(stale)}; run `make protos` and commit the result", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
