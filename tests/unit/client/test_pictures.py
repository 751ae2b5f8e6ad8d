"""Pictures that go along with a request: from wherever they are, as the bytes of a file."""

import asyncio
import io
import threading
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from collodion.client import InvalidRequest, requests
from collodion.client.pictures import file_of, read

PHOTO = PIL.Image.effect_noise((48, 32), 60).convert("RGB")


def encoded(picture: PIL.Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()


def test_bytes_and_files_are_sent_as_they_are(tmp_path: Path) -> None:
    data = encoded(PHOTO, "JPEG")
    (tmp_path / "a.jpg").write_bytes(data)
    for given in (data, bytearray(data), memoryview(data), tmp_path / "a.jpg", str(tmp_path / "a.jpg")):
        assert file_of(given) == data  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F", "HSV"])
def test_a_picture_of_any_kind_becomes_a_png(mode: str) -> None:
    picture = PIL.Image.new(mode, (4, 4), 700) if mode.startswith("I") else PHOTO.convert(mode)
    made = PIL.Image.open(io.BytesIO(file_of(picture)))
    assert (made.format, made.size) == ("PNG", picture.size)


def test_a_picture_keeps_its_pixels_and_its_transparency() -> None:
    picture = PHOTO.convert("RGBA")
    picture.putalpha(PHOTO.convert("L"))
    assert PIL.Image.open(io.BytesIO(file_of(picture))).tobytes() == picture.tobytes()


@pytest.mark.parametrize("size", [16 * 1024 * 1024 + 1, 40 * 1024 * 1024])
def test_what_no_server_takes_is_not_sent(tmp_path: Path, size: int) -> None:
    (tmp_path / "long").write_bytes(bytes(size))
    for given in (bytes(size), tmp_path / "long"):
        with pytest.raises(InvalidRequest) as caught:
            requests.job_request("a fox", {"init_image": given})
        (violation,) = caught.value.details.violations
        assert violation.field == "job.parameters.init_image"
        assert "longer than 16 MiB" in violation.description
        assert len(violation.description) < 300


def test_what_is_no_picture_is_named() -> None:
    with pytest.raises(InvalidRequest) as caught:
        requests.job_request("a fox", {"init_image": 7, "mask_image": None})  # type: ignore[typeddict-item]
    fields = {violation.field for violation in caught.value.details.violations}
    assert fields == {"job.parameters.init_image", "job.parameters.mask_image"}


def test_a_file_that_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        requests.job_request("a fox", {"init_image": tmp_path / "missing.png"})


def test_for_asyncio_files_are_read_and_pictures_encoded_on_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    save = PIL.Image.Image.save

    def noting(self: PIL.Image.Image, *arguments: Any, **more: Any) -> None:
        threads.append(threading.current_thread())
        save(self, *arguments, **more)

    monkeypatch.setattr(PIL.Image.Image, "save", noting)
    options = asyncio.run(read({"steps": 3, "init_image": PHOTO, "mask_image": b"bytes", "strength": 0.5}))
    assert threads
    assert threading.current_thread() not in threads
    assert {**options, "init_image": b""} == {"steps": 3, "init_image": b"", "mask_image": b"bytes", "strength": 0.5}
    assert isinstance(options["init_image"], bytes)


def test_what_cannot_be_read_is_complained_of_with_the_rest_of_the_request() -> None:
    options = asyncio.run(read({"init_image": 7, "mask_image": bytes(20 << 20)}))  # type: ignore[typeddict-item]
    with pytest.raises(InvalidRequest) as caught:
        requests.generate("a fox", {**options, "steps": -1})
    assert len(caught.value.details.violations) == 3
