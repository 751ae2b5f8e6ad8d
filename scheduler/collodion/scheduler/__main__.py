"""`python -m collodion.scheduler`."""

import sys
from pathlib import Path

from collodion.process.config import ConfigError, load
from collodion.process.logs import configure_logs
from collodion.process.metrics import new_registry, serve_metrics
from collodion.process.running import announced, prepare_run_dir
from collodion.scheduler.config import SchedulerConfig
from collodion.scheduler.garbage import keep_collections_short
from collodion.scheduler.journal import MemoryStore
from collodion.scheduler.loop import Loop, stop_on_signals
from collodion.scheduler.metrics import Metrics
from collodion.scheduler.pruning import Pruner
from collodion.wire.artifacts import DirectoryStore


def main() -> int:
    """The exit code: 0 after SIGTERM or SIGINT, 2 if the configuration cannot be used."""
    config = load(SchedulerConfig, "scheduler", sys.argv[1:])
    configure_logs("scheduler", config.log_format, config.log_level)
    try:
        _serve(config, prepare_run_dir(config.run_dir))
    except ConfigError as error:
        print(f"collodion scheduler: {error}", file=sys.stderr)
        return 2
    return 0


def _serve(config: SchedulerConfig, run_dir: Path) -> None:
    registry = new_registry()
    port = serve_metrics(registry, config.metrics_host, config.metrics_port)
    store = DirectoryStore(config.artifacts)
    with stop_on_signals() as stop:
        loop = Loop(config, MemoryStore(), Metrics(registry))
        pruner = Pruner(store, config.retention_s, config.artifacts_max_bytes, config.prune_s, loop.uploads)
        keep_collections_short()
        pruner.start()
        with announced(run_dir, "scheduler", metrics=f"{config.metrics_host}:{port}"):
            loop.run(stop)
        pruner.stop()
        loop.close()


if __name__ == "__main__":
    sys.exit(main())
