"""`python -m collodion.client.cli` is the command `collodion`.

Before this is reached, Python has imported `collodion.client` and gRPC with it, too early for `collodion.command`: this
process starts anew there, unless there is nothing left for it to set.
"""

import os
import sys

from collodion.client.cli.main import main
from collodion.command import VERBOSITY

if VERBOSITY not in os.environ:
    os.execv(sys.executable, (sys.executable, "-m", "collodion.command", *sys.argv[1:]))  # noqa: S606  # ourselves
sys.exit(main())
