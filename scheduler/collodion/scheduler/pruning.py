"""Deletes finished pictures whose time is over, on a thread of its own: a directory may take long to walk."""

import logging
import threading

from collodion.wire.artifacts import ArtifactStore

_log = logging.getLogger(__name__)


class Pruner(threading.Thread):
    """Prunes every so often, until the process ends."""

    def __init__(self, store: ArtifactStore, max_age_s: float, max_bytes: int, every_s: float) -> None:
        super().__init__(name="pruner", daemon=True)
        self._store = store
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes
        self._every_s = every_s
        self._stop = threading.Event()

    def run(self) -> None:
        """See the class."""
        while not self._stop.wait(self._every_s):
            try:
                deleted = self._store.prune(self._max_age_s, self._max_bytes)
            except OSError:
                _log.exception("could not prune the pictures")
            else:
                if deleted:
                    _log.info("pruned pictures", extra={"deleted": deleted})

    def stop(self) -> None:
        """Ends it, after the pruning that is going on."""
        self._stop.set()
