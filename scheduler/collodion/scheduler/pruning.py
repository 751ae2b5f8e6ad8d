"""Deletes pictures whose time is over, on a thread of its own: a directory may take long to walk."""

import logging
import threading
from collections.abc import Callable, Collection

from collodion.wire.artifacts import ArtifactStore

_log = logging.getLogger(__name__)


class Pruner(threading.Thread):
    """Prunes every so often, until the process ends. `needed` is called on its thread for the keys of uploads that have to stay."""

    def __init__(
        self,
        store: ArtifactStore,
        max_age_s: float,
        max_bytes: int,
        every_s: float,
        needed: Callable[[], Collection[str]],
    ) -> None:
        super().__init__(name="pruner", daemon=True)
        self._needed = needed
        self._store = store
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes
        self._every_s = every_s
        self._ending = threading.Event()

    def run(self) -> None:
        """See the class."""
        while not self._ending.wait(self._every_s):
            try:
                deleted = self._store.prune(self._max_age_s, self._max_bytes, self._needed())
            except OSError:
                _log.exception("could not prune the pictures")
            else:
                if deleted:
                    _log.info("pruned pictures", extra={"deleted": deleted})

    def stop(self) -> None:
        """Ends it, after the pruning that is going on."""
        self._ending.set()
