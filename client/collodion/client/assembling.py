"""Pieces of a file put together, and checked against what was announced: size and SHA-256. Pure."""

import hashlib
from collections.abc import Sequence

from collodion.client.errors import CorruptImage
from collodion.client.images import Image
from collodion.client.jobs import ImageInfo, Parameters
from collodion.v1 import generation_pb2, job_pb2


def downloaded(job_id: str, parameters: Parameters, pieces: Sequence[generation_pb2.DownloadImageResponse]) -> Image:
    """The picture that a download's pieces make.

    Raises:
        CorruptImage: they do not make the one that the first of them announces.
    """
    if not pieces:
        raise CorruptImage(f"nothing came of a picture of job {job_id}", reason="CORRUPT_IMAGE")
    assembly = Assembly(job_id, pieces[0].image, parameters)
    for piece in pieces:
        assembly.add(piece.offset, piece.data)
    return assembly.image()


class Assembly:
    """One picture on its way. Pieces come in order."""

    def __init__(self, job_id: str, info: job_pb2.Image, parameters: Parameters) -> None:
        self._job_id = job_id
        self._info = ImageInfo.of(info)
        self._parameters = parameters
        self._data = bytearray()

    def add(self, offset: int, data: bytes) -> None:
        """Takes the piece that starts at `offset`.

        Raises:
            CorruptImage: a piece is missing before it, or it goes beyond the announced size.
        """
        if offset != len(self._data) or offset + len(data) > self._info.size_bytes:
            raise self._corrupt(f"bytes {offset} to {offset + len(data)} came after the first {len(self._data)}")
        self._data += data

    @property
    def whole(self) -> bool:
        """Whether as many bytes have come as were announced."""
        return len(self._data) == self._info.size_bytes

    def image(self) -> Image:
        """The picture.

        Raises:
            CorruptImage: it is not the one that was announced.
        """
        if not self.whole:
            raise self._corrupt(f"{len(self._data)} of {self._info.size_bytes} bytes came")
        digest = hashlib.sha256(self._data).hexdigest()
        if digest != self._info.sha256:
            raise self._corrupt(f"its SHA-256 is {digest}, announced was {self._info.sha256}")
        return Image(**vars(self._info), job_id=self._job_id, parameters=self._parameters, data=bytes(self._data))

    def _corrupt(self, what: str) -> CorruptImage:
        return CorruptImage(
            f"image {self._info.index} of job {self._job_id} did not arrive as it is stored: {what}",
            reason="CORRUPT_IMAGE",
        )
