"""The command `collodion`: sets what gRPC reads when it is imported, and only then imports the rest.

gRPC's own log lines would mix with ours on standard error, where `--json` promises one line for each error; what they
tell of, its calls tell too. It belongs to the command alone (a library leaves its user's log be), and `collodion.client`
imports gRPC, so it cannot stand below that.
"""

import os
import sys

VERBOSITY = "GRPC_VERBOSITY"


def main() -> int:
    """Runs the command with this process's arguments. Returns the exit code."""
    os.environ.setdefault(VERBOSITY, "ERROR")
    from collodion.client.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
