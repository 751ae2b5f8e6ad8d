"""Finished pictures: encoded and stored by a few threads, so that the device goes on.

1. A latent is DONE only when its file is in the artifact store, and fails alone when it cannot be.
2. Pictures wait for these threads in a bounded memory: while it is full nothing is decoded, and finished latents, which take a hundredth
   of it, wait instead.
3. The codecs let other threads run while they work (JPEG, which is done soonest, only now and then).
"""

import hashlib
import io
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from collodion.wire.artifacts import ArtifactStore
from collodion.wire.jobs import Failure, OutputFormat, Parameters, Reason, StoredImage
from collodion.worker.latent import Latent
from collodion.worker.metadata import as_exif, as_png, of_image
from collodion.worker.metrics import WorkerMetrics
from collodion.worker.outbox import Outbox, Sample
from collodion.worker.pipeline import Picture

_log = logging.getLogger(__name__)

_PNG_EFFORT = 4  # of 9; at 6 flat pictures take twice as long and shrink by 5 %, noisy ones do not shrink at all
_WEBP_EFFORT = 2  # of 6
_WAITING_BYTES = 64 << 20  # of pictures that wait or are being encoded: 21 of 1024x1024 pixels
_LEAST_WAITING = 2  # for each thread, however large they are: it is to find the next one when it is done
_FEWEST, _MOST, _CORES_EACH = (
    2,
    4,
    4,
)  # threads, where the settings name no number; `benchmarks/ends.py` says how fast they are


def encode(picture: Picture, parameters: Parameters) -> bytes:
    """The file of a picture in the format that its parameters ask for, with them in its metadata."""
    image = Image.fromarray(picture)
    file = io.BytesIO()
    match parameters.output_format:
        case OutputFormat.PNG:
            image.save(file, "PNG", compress_level=_PNG_EFFORT, pnginfo=as_png(parameters))
        case OutputFormat.JPEG:
            image.save(file, "JPEG", quality=parameters.quality, exif=as_exif(parameters))
        case OutputFormat.WEBP:
            image.save(file, "WEBP", quality=parameters.quality, method=_WEBP_EFFORT, exif=as_exif(parameters))
    return file.getvalue()


def threads_for(cores: int) -> int:
    """How many threads encode and store, on a machine of so many cores: one for every four, but from two to four."""
    return min(_MOST, max(_FEWEST, cores // _CORES_EACH))


class ImageKeeper:
    """Encodes and stores, and rings when a latent is done or failed.

    threads: 0 for as many as suit this machine. on_room is called, on any thread, when it is not full any more.
    """

    def __init__(
        self,
        store: ArtifactStore,
        threads: int,
        metrics: WorkerMetrics,
        outbox: Outbox,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._outbox = outbox
        self._on_room = on_room
        self._threads = threads or threads_for(len(os.sched_getaffinity(0)))
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="images")
        self._lock = threading.Lock()
        self._waiting = self._waiting_bytes = 0

    @property
    def full(self) -> bool:
        """See lanes.Keeper."""
        return self._waiting_bytes >= _WAITING_BYTES and self._waiting >= _LEAST_WAITING * self._threads

    def keep(self, latent: Latent, picture: Picture) -> None:
        """See lanes.Keeper."""
        self._count(1, picture.nbytes)
        self._pool.submit(self._keep_one, latent, picture, time.perf_counter())

    def close(self) -> None:
        """Returns when everything that was given is stored."""
        self._pool.shutdown(wait=True)

    def _keep_one(self, latent: Latent, picture: Picture, decoded: float) -> None:
        try:
            self._keep(latent, picture, decoded)
        finally:
            if self._count(-1, -picture.nbytes):
                self._on_room()

    def _count(self, pictures: int, nbytes: int) -> bool:
        """Notes that so many more wait; whether it was full and is so no more."""
        with self._lock:
            was_full = self.full
            self._waiting += pictures
            self._waiting_bytes += nbytes
            has_room = was_full and not self.full
        self._metrics.pictures_waiting.inc(pictures)
        return has_room

    def _keep(self, latent: Latent, picture: Picture, decoded: float) -> None:
        if latent.dropped:
            return
        try:
            image = self._encode_and_store(latent, picture)
            seconds = time.perf_counter() - decoded  # for a thread it may have waited, too
            self._outbox.samples.append(Sample("store", latent.job.order.parameters.model, latent.job.key, 1, seconds))
            latent.finish(image)
        except Exception as error:  # a full disk, a codec's limit: this picture's failure and nobody else's
            _log.exception("a picture could not be stored", extra={"job": latent.id.job, "image": latent.id.image})
            self._metrics.failed(Reason.ARTIFACT_NOT_STORED)
            latent.fail(Failure(reason=Reason.ARTIFACT_NOT_STORED, message=f"{type(error).__name__}: {error}"))
        self._outbox.ring()

    def _encode_and_store(self, latent: Latent, picture: Picture) -> StoredImage:
        parameters = of_image(latent.job.order.parameters, latent.seed)
        began = time.perf_counter()
        data = encode(picture, parameters)
        key = f"{latent.id.job}/{latent.id.image}.{parameters.output_format}"
        self._store.put(key, data)
        self._metrics.image_seconds.labels(parameters.output_format).observe(time.perf_counter() - began)
        self._metrics.images_stored.labels(parameters.model).inc()
        height, width = picture.shape[:2]
        return StoredImage(
            index=latent.id.image,
            seed=latent.seed,
            key=key,
            mime_type=parameters.output_format.mime_type,
            width=width,
            height=height,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )
