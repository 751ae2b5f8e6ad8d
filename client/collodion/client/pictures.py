"""Pictures that a request brings, as the bytes of a file: they are sent as they are, and never made smaller here.

What the server takes is documented in `collodion/v1/job.proto`; only what is longer than it ever takes is refused before it is sent.
"""

import asyncio
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image

if TYPE_CHECKING:
    from collodion.client.requests import JobOptions

PictureLike = bytes | str | os.PathLike[str] | PIL.Image.Image
"""A file's bytes, its path, or a picture of Pillow's."""

FIELDS = ("init_image", "mask_image")
_MAX_BYTES = 16 * 1024 * 1024
_PNG_MODES = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})


def file_of(picture: PictureLike) -> bytes:
    """The bytes to send. A picture of Pillow's becomes a PNG with its pixels as they are: nothing turns it.

    Raises:
        OSError: the file cannot be read. ValueError: it is too long. TypeError: this is no picture.
    """
    match picture:
        case bytes() | bytearray() | memoryview():
            data = bytes(picture)
        case str() | os.PathLike():
            with Path(picture).open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        case PIL.Image.Image():
            data = _png(picture)
        case _:
            raise TypeError("a picture is bytes, a path or a PIL.Image.Image")
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it is longer than {_MAX_BYTES // 2**20} MiB")
    return data


async def read(options: "JobOptions") -> "JobOptions":
    """`options` with the bytes of their pictures, read and encoded on a thread. What cannot be is left for `requests` to complain of."""
    found = [name for name in FIELDS if not isinstance(options.get(name, b""), bytes)]
    return await asyncio.to_thread(_read, options, found) if found else options


def _read(options: "JobOptions", names: list[str]) -> "JobOptions":
    read: JobOptions = {**options}
    for name in names:
        try:
            read[name] = file_of(options[name])  # type: ignore[literal-required]
        except (TypeError, ValueError):
            continue
    return read


def _png(picture: PIL.Image.Image) -> bytes:
    file = io.BytesIO()
    shown = picture if picture.mode in _PNG_MODES else picture.convert("I;16" if picture.mode == "I" else "RGB")
    shown.save(file, "PNG", compress_level=1)
    return file.getvalue()
