"""Pictures that clients send: what becomes of honest ones, and that hostile ones cost little and harm nothing."""

import contextlib
import io
import random
import resource
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from collodion.frontend.pictures import MAX_PIXELS, PictureRefused, normalised

NOISE = Image.effect_noise((48, 32), 60)
PHOTO = Image.merge("RGB", (NOISE, NOISE.rotate(90, expand=True).resize(NOISE.size), NOISE.rotate(180)))


def encoded(picture: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def read(data: bytes, **options) -> Image.Image:
    """What is stored of a picture, checked to be a plain PNG."""
    made = normalised(data, **options)
    picture = Image.open(io.BytesIO(made.data))
    assert (picture.format, picture.size) == ("PNG", (made.width, made.height))
    assert picture.mode == ("L" if options.get("mask") else "RGB")
    picture.load()
    assert not picture.info
    return picture


def refusal(data: bytes) -> str:
    with pytest.raises(PictureRefused) as caught:
        normalised(data)
    return str(caught.value)


# ------------------------------------------------------------ honest pictures


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_a_lossless_picture_keeps_every_pixel(form, options) -> None:
    assert read(encoded(PHOTO, form, **options)).tobytes() == PHOTO.tobytes()


def test_a_jpeg_is_what_other_readers_make_of_it() -> None:
    data = encoded(PHOTO, "JPEG", quality=80, progressive=True)
    assert read(data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_the_same_pixels_are_stored_as_the_same_bytes_whatever_they_came_as() -> None:
    files = [encoded(PHOTO), encoded(PHOTO, compress_level=0), encoded(PHOTO, "WEBP", lossless=True, quality=10)]
    files.append(encoded(PHOTO, exif=turned(1), icc_profile=b"some profile", dpi=(300, 300)))
    assert len({normalised(data).data for data in files}) == 1


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_is_turned_as_its_exif_data_says(form, orientation) -> None:
    data = encoded(PHOTO, form, exif=turned(orientation), **({"lossless": True} if form == "WEBP" else {}))
    found, expected = read(data), ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert (found.size, found.tobytes()) == (expected.size, expected.convert("RGB").tobytes())


@pytest.mark.parametrize(
    "exif", [b"garbage", b"Exif\0\0garbage", b"II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_picture_with_broken_exif_data_is_taken_as_it_lies(exif) -> None:
    assert read(encoded(PHOTO, "JPEG", exif=exif)).size == PHOTO.size


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_what_is_transparent_is_white_and_what_is_half_so_is_half_white(form) -> None:
    picture = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    picture.putpixel((1, 0), (200, 0, 0, 0))
    picture.putpixel((2, 0), (200, 0, 0, 128))
    found = read(encoded(picture, form, **({"lossless": True, "exact": True} if form == "WEBP" else {})))
    assert [found.getpixel((x, 0)) for x in range(2)] == [(200, 0, 0), (255, 255, 255)]
    assert found.getpixel((2, 0)) == pytest.approx((227, 127, 127), abs=1)


def _palette(**transparency) -> bytes:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    return encoded(picture, **transparency)


def _grey_of_16_bits(grey: int, **options) -> bytes:
    picture = Image.new("I;16", (2, 1))
    picture.putpixel((0, 0), grey)
    picture.putpixel((1, 0), 65535)
    return encoded(picture, **options)


@pytest.mark.parametrize(
    ("data", "first", "second"),
    [
        (_palette(), (255, 0, 0), (0, 0, 255)),
        (_palette(transparency=0), (255, 255, 255), (0, 0, 255)),
        (_palette(transparency=bytes([255, 0])), (255, 0, 0), (255, 255, 255)),
        (_grey_of_16_bits(0), (0, 0, 0), (255, 255, 255)),
        (_grey_of_16_bits(32768), (128, 128, 128), (255, 255, 255)),
        (_grey_of_16_bits(257), (1, 1, 1), (255, 255, 255)),
        (_grey_of_16_bits(257 * 9, transparency=257 * 9), (255, 255, 255), (255, 255, 255)),
        (encoded(Image.new("1", (2, 1), 1)), (255, 255, 255), (255, 255, 255)),
        (encoded(Image.new("L", (2, 1), 7)), (7, 7, 7), (7, 7, 7)),
        (encoded(Image.new("LA", (2, 1), (7, 0))), (255, 255, 255), (255, 255, 255)),
        (encoded(Image.new("RGB", (2, 1), (1, 2, 3)), transparency=(1, 2, 3)), (255, 255, 255), (255, 255, 255)),
        (encoded(Image.new("CMYK", (2, 1), (0, 255, 255, 0)), "JPEG"), (254, 0, 0), (254, 0, 0)),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(data, first, second) -> None:
    found = read(data)
    assert found.getpixel((0, 0)) == pytest.approx(first, abs=1)
    assert found.getpixel((1, 0)) == pytest.approx(second, abs=1)


def test_colours_of_16_bits_become_8() -> None:
    rows = b"\0" + struct.pack(">6H", 65535, 32896, 0, 257, 514, 771)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    found = read(data)
    assert [found.getpixel((x, 0)) for x in range(2)] == [(255, 128, 0), (1, 2, 3)]


@pytest.mark.parametrize(
    ("picture", "grey"),
    [
        (Image.new("L", (1, 1), 200), 200),
        (Image.new("1", (1, 1), 1), 255),
        (Image.new("RGB", (1, 1), (255, 255, 255)), 255),
        (Image.new("RGB", (1, 1), (255, 0, 0)), 76),
        (Image.new("RGBA", (1, 1), (255, 255, 255, 0)), 0),
        (Image.new("RGBA", (1, 1), (255, 255, 255, 128)), 128),
        (Image.new("LA", (1, 1), (255, 0)), 0),
    ],
)
def test_a_mask_is_its_luminance_and_black_where_it_is_transparent(picture, grey) -> None:
    assert read(encoded(picture), mask=True).getpixel((0, 0)) == pytest.approx(grey, abs=1)


def test_a_mask_may_be_a_jpeg_in_any_colours() -> None:
    assert read(encoded(Image.new("CMYK", (8, 8)), "JPEG"), mask=True).getpixel((4, 4)) == 255


def test_of_a_jpeg_with_several_pictures_the_first_counts() -> None:
    file = io.BytesIO()
    PHOTO.save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert read(file.getvalue()).size == PHOTO.size


def test_what_a_phone_appends_to_a_jpeg_does_not_count_as_scans() -> None:
    video = random.Random(1).randbytes(200_000) + b"\xff\xda" * 500
    assert read(encoded(PHOTO, "JPEG") + video).size == PHOTO.size
    assert read(encoded(PHOTO, "JPEG", icc_profile=b"\xff\xda" * 5_000)).size == PHOTO.size


# ------------------------------------------------------------ hostile ones


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"x", b"no picture at all", b"%!PS-Adobe-3.0 EPSF-3.0", b"RIFF\x10\0\0\0WAVEfmt ", b"<svg/>"),
        *(encoded(PHOTO, form) for form in ("GIF", "BMP", "TIFF", "ICO", "JPEG2000", "PDF", "EPS")),
    ],
)
def test_no_other_format_is_ever_decoded(data) -> None:
    assert refusal(data) == "is not a PNG, JPEG or WebP picture"


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_an_animated_picture_is_refused(form) -> None:
    data = encoded(PHOTO, form, save_all=True, append_images=[Image.new("RGB", PHOTO.size)])
    assert refusal(data) == "is animated; send a single picture"


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of so many pixels in few bytes."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes(min(width // 8 + 1, 10**6)) * min(height, 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg_of_size(width: int, height: int) -> bytes:
    data = bytearray(encoded(PHOTO, "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bomb(10_000, 5_010), "has 50.1 megapixels (10000×5010); at most 32"),
        (bomb(2**31 - 1, 2**31 - 1), "megapixels"),
        (bomb(MAX_PIXELS + 1, 1), "megapixels"),
        (jpeg_of_size(65_500, 65_500), "has 4290.2 megapixels"),
    ],
)
def test_a_bomb_is_refused_by_its_header(data, said) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert said in refusal(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # KiB


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded() -> None:
    """Each would cost a pass over the whole picture."""
    data = encoded(PHOTO, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert "too many scans" in refusal(data[:-2] + data[last:-2] * 5_000 + data[-2:])
    assert read(data[:-2] + data[last:-2] * 20 + data[-2:]).size == PHOTO.size


@pytest.mark.parametrize("filler", [b"\xff", b"\xff\x00", b"\xff\xe0\0\2", b"\xff\xe0\0\0", b"\xff\x01"])
def test_markers_without_end_are_gone_through_once(filler) -> None:
    refusal(b"\xff\xd8\xff" + filler * 300_000)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_is_cut_off_is_refused(form) -> None:
    data = encoded(PHOTO, form)
    for length in (20, len(data) // 4, len(data) // 2, len(data) - 30):
        assert refusal(data[:length]) == "cannot be decoded: it is damaged or incomplete"


def test_text_that_unpacks_to_far_more_than_it_is_costs_no_memory() -> None:
    packing = zlib.compressobj(9)
    packed = b"".join([*(packing.compress(bytes(10**6)) for _ in range(200)), packing.flush()])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = encoded(PHOTO)
    for name in (b"zTXt", b"iTXt", b"iCCP"):
        head = b"name\0\1\0\0\0" if name == b"iTXt" else b"name\0\0"
        hostile = data[:33] + chunk(name, head + packed) + data[33:]
        with contextlib.suppress(PictureRefused):  # some of them Pillow passes over
            assert normalised(hostile).data == normalised(data).data
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@settings(deadline=None, max_examples=300)
@given(
    form=st.sampled_from(["PNG", "JPEG", "WEBP"]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=5),
)
def test_whatever_is_changed_in_a_picture_it_is_taken_or_refused(form, changes) -> None:
    data = bytearray(encoded(PHOTO, form))
    for place, value in changes:
        data[min(int(place * len(data)), len(data) - 1)] = value
    try:
        made = normalised(bytes(data))
    except PictureRefused:
        return
    assert made.width * made.height <= MAX_PIXELS


@settings(deadline=None, max_examples=200)
@given(
    start=st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\xff\0\0\0WEBP", b""]),
    rest=st.binary(max_size=300),
)
def test_no_bytes_make_it_fail_in_another_way(start, rest) -> None:
    with pytest.raises(PictureRefused):
        normalised(start + rest)
