"""Uploads as a worker reads them back."""

import io

import pytest
from PIL import Image

from collodion.wire.artifacts import DirectoryStore, upload_key
from collodion.wire.jobs import Reason
from collodion.worker.pipeline import LatentRefused
from collodion.worker.uploads import Uploads


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path)


def png(picture, form="PNG"):
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()


def test_a_picture_and_a_mask_come_back_as_they_were_stored(store):
    picture, mask = Image.effect_noise((7, 5), 50).convert("RGB"), Image.effect_noise((3, 9), 50)
    store.put(upload_key("a"), png(picture))
    store.put(upload_key("m"), png(mask))
    uploads = Uploads(store)
    assert uploads.picture(upload_key("a")) == picture
    assert uploads.mask(upload_key("m")) == mask


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"no picture",
        png(Image.new("RGB", (64, 64)))[:60],
        png(Image.effect_noise((64, 64), 50))[:-100],
        png(Image.new("RGB", (8, 8)), "JPEG"),
    ],
)
def test_what_cannot_be_read_is_lost_and_its_job_says_so(store, data):
    if data is not None:
        store.put(upload_key("a"), data)
    with pytest.raises(LatentRefused) as caught:
        Uploads(store).picture(upload_key("a"))
    assert caught.value.failure.reason is Reason.UPLOAD_LOST


def test_nothing_outside_the_store_is_read(store, tmp_path):
    (tmp_path.parent / "outside.png").write_bytes(png(Image.new("RGB", (8, 8))))
    with pytest.raises(LatentRefused):
        Uploads(store).picture("../outside.png")
