"""`python -m collodion.frontend`: serves until SIGTERM or SIGINT."""

import sys

import uvloop

from collodion.frontend.config import Config
from collodion.frontend.server import serve
from collodion.process.config import ConfigError, load
from collodion.process.logs import configure_logs
from collodion.process.running import prepare_run_dir


def main() -> int:
    """The exit code: 0 after a signal, 2 if the configuration cannot be used."""
    config = load(Config, "frontend", sys.argv[1:])
    configure_logs(config.name, config.log_format, config.log_level)
    try:
        prepare_run_dir(config.run_dir)
        uvloop.run(serve(config))
    except (ConfigError, OSError) as error:
        print(f"collodion frontend: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
