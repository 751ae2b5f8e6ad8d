"""Pictures from the artifact store to clients.

1. The store is read on threads, and only when the stream can take more: a reader that stalls holds one piece, not a picture.
2. Pictures in one piece draw on one budget for all streams. When stalled readers have used it up, pictures go in small pieces instead,
   so that neither memory grows nor anybody waits.
3. A picture that is gone from the store ends with an empty last piece, and a warning says so: the stream goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor

from collodion.frontend import convert
from collodion.frontend.metrics import Metrics
from collodion.wire.artifacts import ArtifactMissing, ArtifactStore
from collodion.wire.jobs import Parameters, Reason, StoredImage

INLINE_BYTES = 1024 * 1024  # the API's bound on ImageReady.data
PIECE_BYTES = 32 * 1024  # gRPC holds about four of them for a reader that has stalled
_READERS = 4
_log = logging.getLogger(__name__)

Write = Callable[[bytes], Awaitable[None]]


class Images:
    """Reads pictures for all RPCs, on the running loop."""

    def __init__(self, store: ArtifactStore, budget_bytes: int, metrics: Metrics) -> None:
        self._store = store
        self._budget = budget_bytes
        self._metrics = metrics
        self._readers = ThreadPoolExecutor(_READERS, "images")

    def close(self) -> None:
        """Stops the readers; what they read is not waited for."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def send(
        self, write: Write, job: str, at: float, stored: StoredImage, parameters: Parameters | None, inline: bool
    ) -> None:
        """Writes the events that tell of one picture: with its bytes if `inline`, in one piece if that is allowed."""
        if not inline:
            await write(convert.image_ready(job, at, stored, parameters, b""))
            self._metrics.events_sent["image"].inc()
        elif stored.size_bytes <= min(INLINE_BYTES, self._budget):
            await self._send_whole(write, job, at, stored, parameters)
        else:
            await self._send_pieces(write, job, at, stored, parameters)

    def open(self, stored: StoredImage) -> "Pieces":
        """The stored file, to be read in order."""
        return Pieces(self._store, stored, self._readers, self._metrics)

    async def _send_whole(
        self, write: Write, job: str, at: float, stored: StoredImage, parameters: Parameters | None
    ) -> None:
        self._budget -= stored.size_bytes
        try:
            await write(convert.image_ready(job, at, stored, parameters, await self._whole(stored)))
            self._metrics.events_sent["image"].inc()
        except ArtifactMissing:
            await write(convert.image_ready(job, at, stored, parameters, b""))
            self._metrics.events_sent["image"].inc()
            await self._tell_missing(write, job, at, stored, 0)
        finally:
            self._budget += stored.size_bytes

    async def _send_pieces(
        self, write: Write, job: str, at: float, stored: StoredImage, parameters: Parameters | None
    ) -> None:
        await write(convert.image_ready(job, at, stored, parameters, b""))
        self._metrics.events_sent["image"].inc()
        pieces = self.open(stored)
        try:
            while not pieces.done:
                offset, piece = pieces.offset, await pieces.read()
                message = convert.image_chunk(job, at, stored.index, offset, piece, last=pieces.done)
                del piece  # a reader that stalls now costs the message alone
                await write(message)
                self._metrics.events_sent["image_chunk"].inc()
        except ArtifactMissing:
            await self._tell_missing(write, job, at, stored, pieces.offset)

    async def _whole(self, stored: StoredImage) -> bytes:
        pieces = self.open(stored)
        read = []
        while not pieces.done:
            read.append(await pieces.read())
        return b"".join(read)

    async def _tell_missing(self, write: Write, job: str, at: float, stored: StoredImage, offset: int) -> None:
        await write(convert.image_chunk(job, at, stored.index, offset, b"", last=True))
        self._metrics.events_sent["image_chunk"].inc()
        _log.warning("a stored image cannot be read", extra={"job": job, "image": stored.index})
        message = f"image {stored.index} is no longer stored"
        await write(convert.warning(job, at, Reason.IMAGE_NOT_FOUND, message))
        self._metrics.events_sent["warning"].inc()


class Pieces:
    """One stored file, read piece by piece on a thread; `offset` is where the next piece begins."""

    def __init__(self, store: ArtifactStore, stored: StoredImage, readers: Executor, metrics: Metrics) -> None:
        self.offset = 0
        self._stored = stored
        self._chunks = store.chunks(stored.key, PIECE_BYTES)
        self._readers = readers
        self._metrics = metrics

    @property
    def done(self) -> bool:
        """Whether the file is read."""
        return self.offset >= self._stored.size_bytes

    async def read(self) -> bytes:
        """The next piece. Raises ArtifactMissing if the file is gone or shorter than it was."""
        piece = await asyncio.get_running_loop().run_in_executor(self._readers, next, self._chunks, b"")
        if not piece:
            raise ArtifactMissing(self._stored.key)
        self.offset += len(piece)
        self._metrics.image_bytes_sent.inc(len(piece))
        return piece
