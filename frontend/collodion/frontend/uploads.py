"""Pictures that requests bring: decoded on threads, and put into the artifact store, where workers find them.

1. Bytes in flight are bounded. What goes beyond the bound is refused, not kept waiting: it would be in memory while it waits.
2. So many pictures are decoded at once as there are threads, which bounds the memory that it takes. Who waits too long is refused.
3. What was decoded once is remembered by its SHA-256: while it is still stored, the same picture costs its hash only.
4. What a request brings is stored before the scheduler hears of the request, and made young again if it was stored before.
"""

import asyncio
import contextlib
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from collodion.frontend.config import Config
from collodion.frontend.errors import CallError
from collodion.frontend.fields import Fields
from collodion.frontend.metrics import Metrics
from collodion.frontend.pictures import PictureRefused, normalised
from collodion.v1 import generation_pb2
from collodion.wire.artifacts import ArtifactStore, upload_key
from collodion.wire.jobs import Reason

_REMEMBERED = 4_096  # pictures; about 200 bytes each
_log = logging.getLogger(__name__)


class Sent(NamedTuple):
    """The encoded pictures of a request, empty for none."""

    init_image: bytes = b""
    mask_image: bytes = b""

    @classmethod
    def taken(cls, request: generation_pb2.JobRequest) -> tuple["Sent", generation_pb2.JobRequest]:
        """The pictures of a request, and the request without them. What protobuf has parsed it keeps until the whole message is gone, and
        it makes a copy whenever it is asked: so the one that came is to be dropped.
        """
        sent = cls(request.parameters.init_image, request.parameters.mask_image)
        request.parameters.ClearField("init_image")
        request.parameters.ClearField("mask_image")
        rest = generation_pb2.JobRequest()
        rest.CopyFrom(request)
        return sent, rest


class Upload(NamedTuple):
    """A picture in the artifact store, with its size in pixels."""

    key: str
    width: int
    height: int


class Uploads:
    """Stores pictures for all RPCs, on the running loop."""

    def __init__(self, store: ArtifactStore, config: Config, metrics: Metrics) -> None:
        self._store = store
        self._budget = config.upload_budget_bytes
        self._wait_s = config.upload_wait_s
        self._metrics = metrics
        self._in_flight = 0
        self._free = asyncio.Semaphore(config.upload_threads)
        self._pool = ThreadPoolExecutor(config.upload_threads, "uploads")
        self._loop = asyncio.get_running_loop()
        self._known: OrderedDict[tuple[bytes, bool], Upload] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Stops the threads; what they do is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def store(self, sent: Sent) -> tuple[Upload, Upload | None]:
        """Stores the picture to begin from, and the mask if there is one.

        Raises:
            CallError: INVALID_ARGUMENT: they are no pictures that we take. RESOURCE_EXHAUSTED: there are too many at once. INTERNAL: the
                store is broken.
        """
        check = Fields()
        with self._room(len(sent.init_image) + len(sent.mask_image)):
            init_image = await self._stored(check, "init_image", sent.init_image, mask=False)
            mask_image = (
                await self._stored(check, "mask_image", sent.mask_image, mask=True) if sent.mask_image else None
            )
        check.raise_violations()
        assert init_image is not None, "otherwise it is a violation"
        return init_image, mask_image

    @contextlib.contextmanager
    def _room(self, size: int) -> Iterator[None]:
        if self._in_flight and self._in_flight + size > self._budget:
            raise CallError(Reason.QUEUE_FULL, "too many pictures come in at once; try again in a moment")
        self._count(size)
        try:
            yield
        finally:
            self._count(-size)

    def _count(self, change: int) -> None:
        self._in_flight += change
        self._metrics.upload_bytes.set(self._in_flight)

    async def _stored(self, check: Fields, field: str, data: bytes, *, mask: bool) -> Upload | None:
        try:
            found = await self._on_thread(data, mask)
        except OSError as error:
            _log.exception("a picture could not be stored")
            raise CallError(
                Reason.ARTIFACT_NOT_STORED, f"{field} could not be stored; the frontend's log says why"
            ) from error
        if isinstance(found, Upload):
            return found
        check.wrong(f"job.parameters.{field}", found)
        return None

    async def _on_thread(self, data: bytes, mask: bool) -> Upload | str:
        await self._turn()
        working = self._pool.submit(self._work, data, mask)
        working.add_done_callback(self._done)  # and not when this call ends: a thread goes on for a client that hung up
        try:
            return await asyncio.wrap_future(working)
        finally:
            del working  # or an error would hold it, and it the error, and both what was decoded

    async def _turn(self) -> None:
        """Without the picture at hand: a cancelled wait is a cycle of its frames, which lies in memory until the next collection."""
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
        except TimeoutError:
            raise CallError(Reason.QUEUE_FULL, "too many pictures wait to be decoded; try again in a moment") from None

    def _done(self, _: Future[Upload | str]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended before the thread
            self._loop.call_soon_threadsafe(self._free.release)

    def _work(self, data: bytes, mask: bool) -> Upload | str:
        """On a thread. Why it is refused is returned, not raised: an error has frames, and they hold what was decoded."""
        name = hashlib.sha256(data).digest(), mask
        with self._lock:
            known = self._known.get(name)
        if known is None or not self._store.keep(known.key):
            try:
                with self._metrics.upload_seconds.time():
                    known = self._put(data, mask)
            except PictureRefused as refused:
                return str(refused)
        with self._lock:
            self._known[name] = known
            self._known.move_to_end(name)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return known

    def _put(self, data: bytes, mask: bool) -> Upload:
        picture = normalised(data, mask=mask)
        key = upload_key(hashlib.sha256(picture.data).hexdigest())
        if not self._store.keep(key):
            self._store.put(key, picture.data)
        return Upload(key, picture.width, picture.height)
