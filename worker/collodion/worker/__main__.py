"""`python -m collodion.worker`."""

import dataclasses
import logging
import os
import sys

from collodion.process.config import ConfigError, load
from collodion.process.logs import configure_logs
from collodion.process.running import prepare_run_dir
from collodion.worker.config import WorkerConfig
from collodion.worker.process import run_worker


def main() -> int:
    """The worker process; its exit code."""
    config = load(WorkerConfig, "worker", sys.argv[1:])
    configure_logs(config.name, config.log_format, config.log_level)
    try:
        config = dataclasses.replace(config, run_dir=prepare_run_dir(config.run_dir))
    except ConfigError as error:
        print(f"collodion worker: {error}", file=sys.stderr)
        return 2
    return run_worker(config)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # A model call that is still under way cannot be interrupted, and would be torn down in the middle of foreign code.
    os._exit(code)
