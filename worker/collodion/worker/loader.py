"""The threads that load models and look for new ones, beside the device's.

1. One model is loaded at a time: two would share the disk and the memory, and both be late.
2. Whatever loading raises is that model's failure, said in a sentence, and nobody else's.
3. Models that have left are closed here, before the next one is loaded: giving gigabytes back takes a while.
"""

import logging
import threading
import time
from collections.abc import Callable

from collodion.process.config import ConfigError
from collodion.worker.garbage import give_back_freed_memory
from collodion.worker.metrics import WorkerMetrics
from collodion.worker.residency import Residents
from collodion.worker.shelf import NotWished, Shelf

_log = logging.getLogger(__name__)

_LONGEST_REASON = 500  # characters of a foreign error that clients are shown


class Loader:
    """Loads what the residents lack, and looks through the shelf every rescan_s seconds. on_loaded is called after each load."""

    def __init__(
        self,
        shelf: Shelf,
        models: Residents,
        rescan_s: float,
        metrics: WorkerMetrics,
        on_loaded: Callable[[], None] = lambda: None,
    ) -> None:
        self._shelf = shelf
        self._models = models
        self._rescan_s = rescan_s
        self._metrics = metrics
        self._on_loaded = on_loaded
        self._closed = threading.Event()

    def start(self) -> None:
        """Starts the threads."""
        for name, work in (("loader", self._load_all), ("shelf", self._look_again)):
            threading.Thread(target=work, name=name, daemon=True).start()

    def close(self) -> None:
        """Breaks off what is being loaded, as soon as it tells of its progress. Returns at once."""
        self._closed.set()
        self._models.close()

    def look(self) -> None:
        """Looks through the shelf once."""
        try:
            self._models.shelve(self._shelf.look())
        except Exception:  # a directory that is gone, a file that changes while it is read: the next look may go well
            _log.exception("the models could not be looked through")

    def _look_again(self) -> None:
        while not self._closed.wait(self._rescan_s):
            self.look()

    def _load_all(self) -> None:
        while (name := self._models.next()) is not None:
            self._close_released()
            if name:
                self.load(name)

    def _close_released(self) -> None:
        try:
            if self._models.close_released():
                give_back_freed_memory()
        except Exception:  # foreign code: what it leaves behind is lost, and the next model is loaded all the same
            _log.exception("a model could not be closed")

    def load(self, name: str) -> None:
        """Loads one, on this thread."""
        began = time.perf_counter()
        _log.info("loading a model", extra={"model": name})
        try:
            pipeline = self._shelf.load(name, lambda done: self._models.progressed(name, done))
        except NotWished:
            self._metrics.model_loads.labels("broken_off").inc()
            _log.info("nobody wants the model any more", extra={"model": name})
            self._models.failed(name, "")
        except Exception as error:  # foreign code on foreign files: whatever it raises is this model's failure
            self._metrics.model_loads.labels("failed").inc()
            reason = reason_of(name, error)
            _log.warning("a model could not be loaded", extra={"model": name, "reason": reason})
            self._models.failed(name, reason)
        else:
            load_s = time.perf_counter() - began
            self._metrics.loaded(name, load_s)
            _log.info("loaded a model", extra={"model": name, "seconds": round(load_s, 3)})
            self._on_loaded()
            self._models.loaded(name, pipeline, load_s)


def reason_of(name: str, error: Exception) -> str:
    """Why a model could not be loaded, for a person. What nobody foresaw is logged whole."""
    if isinstance(error, MemoryError):
        return f"the model {name} does not fit the device's memory"
    if isinstance(error, ConfigError):
        return str(error)[:_LONGEST_REASON]
    reason = getattr(error, "reason", None)
    if isinstance(reason, str):
        return reason[:_LONGEST_REASON]
    _log.error("a model raised", exc_info=error, extra={"model": name})
    return f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
