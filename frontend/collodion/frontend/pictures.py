"""Pictures that clients send, made safe: any PNG, JPEG or WebP becomes a plain PNG of 8 bits, turned upright and without alpha. No I/O.

1. Nothing is decoded before its header is known to be modest: bytes and pixels bound the memory and the time that decoding takes. The scans
   of a JPEG are counted, too: each costs a pass over all of it, and a hostile file has thousands.
2. Pillow's readers are called by themselves and not through `Image.open`: no other format is ever tried, and a JPEG with several pictures,
   as phones write them, is its first one.
3. Decoders are foreign code on a stranger's bytes. Whatever one raises is that picture's fault, but for MemoryError.
4. Of the colours only the numbers count: embedded colour profiles are left out of account, as diffusers does.
"""

import io
import re
from typing import NamedTuple

from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

MAX_BYTES = 16 * 1024 * 1024
MAX_PIXELS = 32_000_000
_MAX_SCANS = 100  # encoders write about ten
_MAX_SEGMENTS = 10_000  # of a JPEG; a profile or a panorama takes hundreds
_PNG_EFFORT = 1  # of 9; at 6 a photograph takes three times as long and shrinks by a tenth
_READERS: tuple[tuple[re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    (re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImagePlugin.WebPImageFile),
)
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # stuffed bytes, fill bytes and restarts inside a scan are none
_SCAN, _END = b"\xda", b"\xd9"
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureRefused(Exception):
    """Why a picture cannot be used: the end of a sentence that begins with its field."""


class Normalised(NamedTuple):
    """A plain PNG, and its size in pixels."""

    data: bytes
    width: int
    height: int


def normalised(data: bytes, *, mask: bool = False) -> Normalised:
    """The picture in `data`, of which the caller knows that it has at most MAX_BYTES.

    Mode RGB, laid on white where it is transparent. A `mask` becomes its luminance, mode L, black where it is transparent.

    Raises:
        PictureRefused: it is none that we take.
        MemoryError: there is not enough for it.
    """
    try:
        image = _flat(_loaded(data), mask=mask)
        image.info.clear()  # profiles, comments and the like would be stored with it
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=_PNG_EFFORT)
    except (PictureRefused, MemoryError):
        raise
    except Exception as error:  # rule 3
        raise PictureRefused("cannot be decoded: it is damaged or incomplete") from error
    return Normalised(file.getvalue(), *image.size)


def _loaded(data: bytes) -> Image.Image:
    reader = next((reader for magic, reader in _READERS if magic.match(data)), None)
    if reader is None:
        raise PictureRefused("is not a PNG, JPEG or WebP picture")
    if reader is JpegImagePlugin.JpegImageFile and _too_many_scans(data):
        raise PictureRefused("has too many scans or segments; save it as an ordinary JPEG")
    image = reader(io.BytesIO(data))
    width, height = image.size
    if width * height > MAX_PIXELS:
        had, most = f"{width * height / 1e6:.1f}", MAX_PIXELS // 10**6
        raise PictureRefused(f"has {had} megapixels ({width}×{height}); at most {most}")
    if getattr(image, "is_animated", False):
        raise PictureRefused("is animated; send a single picture")
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _flat(image: Image.Image, *, mask: bool) -> Image.Image:
    image = _of_8_bits(image)
    mode = "L" if mask else "RGB"
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGB", image.size, "black" if mask else "white")
        image.paste(layer, mask=layer)
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")  # also on the way to L, which some modes know no other way to
    return image if image.mode == mode else image.convert(mode)


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Greys of 16 bits would be cut off at 255 instead of scaled."""
    if not image.mode.startswith("I"):
        return image
    scaled = image.point(lambda grey: grey * (255 / 65535) + 0.5).convert("L")
    transparent = scaled.info.pop("transparency", None)
    if isinstance(transparent, int):
        scaled.info["transparency"] = round(transparent * 255 / 65535)
    return scaled


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a picture is worth showing whatever its metadata is
        return 1
    return found if isinstance(found, int) else 1


def _too_many_scans(data: bytes) -> bool:
    """Whether they are more than a decoder should be asked to go through. A segment says how long it is; a scan ends at the next marker."""
    place, scans = 2, 0
    for _ in range(_MAX_SEGMENTS):
        marker = _MARKER.search(data, place)
        if marker is None or marker[1] == _END:
            return False
        scans += marker[1] == _SCAN
        if scans > _MAX_SCANS:
            return True
        place = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return True
