"""Uploads read back: the pictures that jobs begin from, as the frontend stored them.

They were checked and normalised before they were stored, so what cannot be read now is lost, and its job fails with UPLOAD_LOST: sent
again, the same picture is stored anew. No torch here.
"""

import io
import logging

from PIL import Image

from collodion.wire.artifacts import ArtifactMissing, ArtifactStore
from collodion.wire.jobs import Failure, Reason
from collodion.worker.pipeline import LatentRefused

_CHUNK_BYTES = 1024 * 1024
_log = logging.getLogger(__name__)


class Uploads:
    """Reads from the artifact store, on any thread."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def picture(self, key: str) -> Image.Image:
        """The picture under `key`, mode RGB, of the size that it was sent in. Raises LatentRefused."""
        return self._read(key, "RGB")

    def mask(self, key: str) -> Image.Image:
        """The mask under `key`, mode L: white where it is to be redrawn. Of the size that it was sent in. Raises LatentRefused."""
        return self._read(key, "L")

    def _read(self, key: str, mode: str) -> Image.Image:
        try:
            data = b"".join(self._store.chunks(key, _CHUNK_BYTES))
            return Image.open(io.BytesIO(data), formats=("PNG",)).convert(mode)
        except (ArtifactMissing, OSError, SyntaxError, ValueError) as error:  # Pillow says so in three ways
            _log.warning("an upload cannot be read", extra={"key": key, "error": repr(error)})
            message = "the picture that it begins from is no longer stored; send it again"
            raise LatentRefused(Failure(reason=Reason.UPLOAD_LOST, message=message)) from error
