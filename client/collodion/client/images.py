"""A picture that has arrived: its file, the picture in it, and what drew it."""

import io
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import PIL.Image

from collodion.client.jobs import ImageInfo, Parameters

_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


@dataclass(frozen=True)
class Image(ImageInfo):
    """A picture whose bytes have been checked against `sha256`.

    `parameters`, sent again, draw this very picture alone. `data` is the file as the server stored it, its generation
    parameters in its metadata.
    """

    job_id: str
    parameters: Parameters
    data: bytes = field(repr=False)

    @cached_property
    def pil(self) -> PIL.Image.Image:
        """The decoded picture; decoded once, so copy it before drawing on it."""
        return decoded(self.data)

    @property
    def suffix(self) -> str:
        """The usual end of a file's name, for example .png."""
        return _SUFFIXES.get(self.mime_type, ".bin")

    @property
    def file_name(self) -> str:
        """A name that no other picture has: the job and the seed."""
        return f"{self.job_id}-{self.seed}{self.suffix}"

    def save(self, directory: Path | str) -> Path:
        """Writes the file as it is into `directory` (made if need be), under `file_name`. Returns its path."""
        path = Path(directory) / self.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data)
        return path


def decoded(data: bytes) -> PIL.Image.Image:
    """An encoded picture, decoded in full."""
    picture = PIL.Image.open(io.BytesIO(data))
    picture.load()
    return picture
