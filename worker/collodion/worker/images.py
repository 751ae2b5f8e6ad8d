"""Finished pictures: encoded and stored by a few threads, so that the device goes on.

A latent is DONE only when its file is in the artifact store, and fails alone when it cannot be.
"""

import hashlib
import io
import logging
import time
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


class ImageKeeper:
    """Encodes and stores, and rings when a latent is done or failed."""

    def __init__(self, store: ArtifactStore, threads: int, metrics: WorkerMetrics, outbox: Outbox) -> None:
        self._store = store
        self._metrics = metrics
        self._outbox = outbox
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="images")

    def keep(self, latent: Latent, picture: Picture) -> None:
        """See lanes.Keeper."""
        self._pool.submit(self._keep, latent, picture, time.perf_counter())

    def close(self) -> None:
        """Returns when everything that was given is stored."""
        self._pool.shutdown(wait=True)

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
