"""The worker process put together: what is made in which order, how it ends, and with which exit code.

0: told to end. 1: a loop broke. 2: the configuration cannot be used (a model that is not there).
Ending: the device thread stops at its next boundary, what is decoded is stored and reported, then the scheduler hears that this
worker leaves. A model call cannot be interrupted, so the process does not wait long for one.
"""

import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable

from collodion.process.config import ConfigError
from collodion.process.metrics import serve_metrics
from collodion.process.running import announced
from collodion.wire.artifacts import DirectoryStore
from collodion.worker.config import WorkerConfig
from collodion.worker.device_kind import device_kind
from collodion.worker.engine import Engine
from collodion.worker.garbage import keep_collections_short
from collodion.worker.holdings import Holdings
from collodion.worker.images import ImageKeeper
from collodion.worker.inbox import Inbox
from collodion.worker.link import Link
from collodion.worker.loader import Loader
from collodion.worker.metrics import WorkerMetrics
from collodion.worker.models import keep_pinned, open_library
from collodion.worker.optimize.observer import Observer
from collodion.worker.outbox import Outbox
from collodion.worker.preparing import Preparer
from collodion.worker.preview import PreviewMaker
from collodion.worker.reports import Reporter
from collodion.worker.residency import Residents

_log = logging.getLogger(__name__)

_LONGEST_LAST_CALL_S = 5.0
# A thread that waits for the interpreter gets it after this long. A step asks for it a thousand times: with Python's 5 ms nothing would
# go on while a model is built on another thread, with 0.5 ms a step takes 2.7 times as long then, with this twice
# (`benchmarks/many_models.py`).
_SWITCH_INTERVAL_S = 0.00005


class Worker:
    """One device, one engine, one link. on_loaded is called whenever a model was loaded while it serves."""

    def __init__(self, config: WorkerConfig, on_loaded: Callable[[], None] = lambda: None) -> None:
        self.config = config
        self.incarnation = uuid.uuid4().hex
        self.metrics = WorkerMetrics()
        library = open_library(config, self._observer)
        self.device = library.device
        self.outbox = Outbox()
        inbox = Inbox(self.incarnation)
        self.models = Residents(
            library.budget_bytes, library.pinned, self.outbox.ring, on_due=lambda: self._engine.wake()
        )
        keep_pinned(library, self.models)
        self._loader = Loader(library.shelf, self.models, config.rescan_s, self.metrics, on_loaded)
        self._preparer = Preparer(self.models, lambda: self._engine.wake())
        store = DirectoryStore(config.artifacts)
        self._keeper = ImageKeeper(
            store, config.image_threads, self.metrics, self.outbox, on_room=lambda: self._engine.wake()
        )
        self._previews = PreviewMaker(self.incarnation, self.outbox, self.metrics)
        holdings = Holdings(self._preparer.job)
        self._engine = Engine(
            config,
            self.models,
            holdings,
            inbox,
            self.outbox,
            self._keeper,
            self._previews,
            self._preparer.again,
            self.metrics.failed,
        )
        reporter = Reporter(self.incarnation, config, self.device, device_kind(self.device), self.models)
        self._link = Link(
            config,
            self.incarnation,
            inbox,
            self.outbox,
            self._engine,
            self._preparer,
            self.models,
            reporter,
            self.metrics,
        )
        self.metrics.show_latents(lambda: self.outbox.held)
        self.metrics.show_models(lambda: self.models.standing().statuses)
        # A pipe and not an Event: a signal handler that takes a lock may wait for the thread that it interrupted.
        self._ended, self._ender = os.pipe()
        self._broken = False

    def run(self) -> int:
        """Runs until `end`; the exit code."""
        port = serve_metrics(self.metrics.registry, self.config.metrics_host, self.config.metrics_port)
        self._previews.start()
        engine = self._thread("device", self._engine.run)
        link = self._thread("link", self._link.run)
        self._loader.start()
        metrics = f"{self.config.metrics_host}:{port}"
        models = [model.name for model in self.models.standing().models]
        _log.info("ready", extra={"device": self.device, "models": ",".join(models), "metrics": metrics})
        with announced(self.config.run_dir, self.config.name, device=self.device, models=models, metrics=metrics):
            os.read(self._ended, 1)
        self._loader.close()
        self._engine.stop()
        engine.join(_LONGEST_LAST_CALL_S)
        self._keeper.close()
        self._previews.close()
        self._link.leave()
        link.join(_LONGEST_LAST_CALL_S)
        self._preparer.close()
        self.outbox.close()
        return 1 if self._broken else 0

    def end(self) -> None:
        """Ends `run`. May be called from a signal handler."""
        os.write(self._ender, b"!")

    def _observer(self, model: str) -> Observer:
        """What is made ready of a model is counted, and told to the scheduler."""
        return self.metrics.observer(model, lambda: self.models.note_optimizations(model))

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except Exception:  # the loop's edge: without this loop the process is of no use
                _log.exception("the %s thread broke", name)
                self._broken = True
                self.end()

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread


def run_worker(config: WorkerConfig) -> int:
    """Loads, serves until SIGTERM or SIGINT, and returns the exit code."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    _on_signals(lambda: os._exit(0))  # while it loads nothing is held, and loading cannot be interrupted otherwise
    try:
        worker = Worker(config, keep_collections_short)
        keep_collections_short()
        _on_signals(worker.end)
        return worker.run()
    except ConfigError as error:
        print(f"collodion worker: {error}", file=sys.stderr)
        return 2


def _on_signals(end: Callable[[], object]) -> None:
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: end())
