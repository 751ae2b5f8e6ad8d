"""Files of finished pictures: format, metadata, and failures."""

import io
import itertools
import json
import select
import threading

import numpy as np
import pytest
from PIL import ExifTags, Image

from collodion.v1 import job_pb2
from collodion.wire.artifacts import DirectoryStore
from collodion.wire.jobs import LatentId, Lora, OutputFormat, Parameters, PromptSyntax, Reason, Stage
from collodion.wire.to_worker import JobOrder
from collodion.worker import images
from collodion.worker.images import ImageKeeper, encode
from collodion.worker.latent import Latent, WorkerJob
from collodion.worker.metrics import WorkerMetrics
from collodion.worker.outbox import Outbox
from collodion.worker.preview import encode_preview

PICTURE = np.arange(24 * 40 * 3, dtype=np.uint8).reshape(24, 40, 3)


def parameters(**fields):
    sensible = {
        "model": "shapes",
        "prompt": "ein Kreis – 円",
        "negative_prompt": "blue",
        "width": 40,
        "height": 24,
        "steps": 20,
        "sampler": "dpmpp_2m",
        "guidance_scale": 7.5,
        "seed": 42,
        "images": 3,
    }
    return Parameters(**{**sensible, **fields})


def metadata(data):
    """The two texts in a file: for people, and as JSON."""
    image = Image.open(io.BytesIO(data))
    if image.format == "PNG":
        return image.text["parameters"], image.text.get("collodion")
    exif = image.getexif()
    comment = exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert comment[:8] == b"UNICODE\0"
    return comment[8:].decode("utf-16-be"), exif.get(ExifTags.Base.ImageDescription)


@pytest.mark.parametrize("output_format", OutputFormat)
def test_a_file_says_how_it_was_drawn(output_format):
    drawn = parameters(output_format=output_format)
    text, data = metadata(encode(PICTURE, drawn))
    assert text == (
        "ein Kreis – 円\nNegative prompt: blue\n"
        "Steps: 20, Sampler: dpmpp_2m, CFG scale: 7.5, Seed: 42, Size: 40x24, Model: shapes, Version: collodion"
    )
    assert Parameters(**json.loads(data)) == drawn


@pytest.mark.parametrize("output_format", OutputFormat)
def test_a_file_says_which_adapters_and_which_picture_it_was_drawn_with(output_format):
    drawn = parameters(
        output_format=output_format,
        loras=(Lora("ink", 0.8), Lora("wool", -1.0, whole=True)),
        prompt_syntax=PromptSyntax.WEIGHTED,
        init_image="uploads/5e1f.png",
        mask_image="uploads/a0.png",
        strength=0.7,
    )
    text, data = metadata(encode(PICTURE, drawn))
    assert text.splitlines()[0] == "ein Kreis – 円 <lora:ink:0.8> <lora:wool:-1>"
    assert ", Model: shapes, Denoising strength: 0.7, Version: collodion" in text
    said = json.loads(data)
    assert said["loras"] == [{"name": "ink", "scale": 0.8}, {"name": "wool", "scale": -1.0}]
    assert (said["init_image_sha256"], said["mask_image_sha256"], said["strength"]) == ("5e1f", "a0", 0.7)
    assert said["prompt_syntax"] == "weighted"
    assert said.keys() <= {field.name for field in job_pb2.Parameters.DESCRIPTOR.fields}


@pytest.mark.parametrize("output_format", OutputFormat)
def test_a_file_says_which_step_cache_it_was_drawn_with_and_nothing_of_one_that_was_off(output_format):
    text, data = metadata(encode(PICTURE, parameters(output_format=output_format, step_cache=0.15)))
    assert ", Model: shapes, Step cache: 0.15, Version: collodion" in text
    assert json.loads(data)["step_cache"] == 0.15
    text, data = metadata(encode(PICTURE, parameters(output_format=output_format)))
    assert "Step cache" not in text
    assert "step_cache" not in json.loads(data)


def test_a_png_is_lossless_and_of_the_pictures_size():
    image = Image.open(io.BytesIO(encode(PICTURE, parameters())))
    assert (np.asarray(image) == PICTURE).all()


def test_quality_decides_how_large_a_lossy_file_is():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for output_format in (OutputFormat.JPEG, OutputFormat.WEBP):
        sizes = [
            len(encode(noise, parameters(output_format=output_format, quality=quality))) for quality in (1, 50, 100)
        ]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[2] / 2


@pytest.mark.parametrize("output_format", OutputFormat)
@pytest.mark.parametrize(
    "prompt", ["", "\0 \ud800".encode("utf-8", "replace").decode(), "🦀" * 10_000, "x" + "🦀" * 9_999]
)
def test_no_prompt_is_too_strange_or_too_long_for_a_file(output_format, prompt):
    text, _ = metadata(encode(PICTURE, parameters(prompt=prompt, negative_prompt=prompt, output_format=output_format)))
    assert text.startswith(prompt.replace("\0", "")[:1_000])


def make_latent():
    return Latent(
        LatentId("job", 1), WorkerJob(JobOrder(job="job", parameters=parameters()), None), stage=Stage.DECODING
    )


@pytest.fixture
def keeper(tmp_path):
    outbox = Outbox()
    keeper = ImageKeeper(DirectoryStore(tmp_path), 1, WorkerMetrics(), outbox)
    keeper.outbox = outbox
    yield keeper
    keeper.close()
    outbox.close()


def rung(keeper):
    return bool(select.select([keeper.outbox], [], [], 0)[0])


def test_a_stored_picture_carries_its_own_seed(keeper, tmp_path):
    latent = make_latent()
    keeper.keep(latent, PICTURE)
    keeper.close()
    assert latent.stage is Stage.DONE
    assert (latent.image.index, latent.image.seed, latent.image.key) == (1, 43, "job/1.png")
    _, data = metadata((tmp_path / "job" / "1.png").read_bytes())
    assert Parameters(**json.loads(data)) == parameters(seed=43, images=1)
    assert rung(keeper)


def test_how_long_it_took_from_decoding_to_the_store_is_a_lane_of_its_own(keeper, monkeypatch):
    monkeypatch.setattr(
        images.time, "perf_counter", itertools.count().__next__
    )  # a clock that ticks when it is looked at
    first_waits = threading.Event()
    keeper._pool.submit(first_waits.wait, 10)
    latents = [make_latent() for _ in range(3)]
    for latent in latents:
        keeper.keep(latent, PICTURE)
    first_waits.set()
    keeper.close()
    samples = list(keeper.outbox.samples)
    assert [sample[:4] for sample in samples] == [("store", "shapes", "shapes/40x24", 1)] * 3
    seconds = [sample.seconds for sample in samples]
    assert seconds == sorted(set(seconds))  # one waits for another


def test_a_dropped_latent_is_not_stored(keeper, tmp_path):
    latent = make_latent()
    latent.dropped = True
    keeper.keep(latent, PICTURE)
    keeper.close()
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_stored_fails_its_latent_with_the_reason(keeper, tmp_path):
    (tmp_path / "job").write_text("a file where a directory should be")
    latent = make_latent()
    keeper.keep(latent, PICTURE)
    keeper.close()
    assert latent.stage is Stage.STOPPED
    assert latent.failure.reason is Reason.ARTIFACT_NOT_STORED
    assert rung(keeper)
    assert not keeper.outbox.samples


def test_a_preview_has_the_pictures_proportions_and_at_most_128_pixels():
    for width, height, expected in ((512, 768, (85, 128)), (64, 32, (64, 32)), (4096, 8, (128, 1))):
        assert Image.open(io.BytesIO(encode_preview(PICTURE, width, height))).size == expected


def waiting(keeper):
    return keeper.metrics.registry.get_sample_value("collodion_worker_pictures_waiting")


@pytest.fixture
def crowded(tmp_path, monkeypatch):
    """A keeper with room for the bytes of three pictures, whose one thread waits to be let go."""
    monkeypatch.setattr(images, "_WAITING_BYTES", 3 * PICTURE.nbytes)
    outbox, metrics, rooms = Outbox(), WorkerMetrics(), []
    keeper = ImageKeeper(DirectoryStore(tmp_path), 1, metrics, outbox, on_room=lambda: rooms.append(keeper.full))
    keeper.metrics, keeper.rooms, keeper.go_on = metrics, rooms, threading.Event()
    keeper._pool.submit(keeper.go_on.wait, 10)
    yield keeper
    keeper.go_on.set()
    keeper.close()
    outbox.close()


def test_a_keeper_is_full_when_pictures_fill_its_memory_and_says_once_that_it_has_room(crowded):
    for count in range(1, 6):
        crowded.keep(make_latent(), PICTURE)
        assert crowded.full is (count >= 3)
        assert waiting(crowded) == count
    crowded.go_on.set()
    crowded.close()
    assert crowded.rooms == [False]
    assert (crowded.full, waiting(crowded)) == (False, 0)


def test_pictures_that_are_dropped_or_cannot_be_stored_make_room_too(crowded, tmp_path):
    (tmp_path / "job").write_text("a file where a directory should be")
    latents = [make_latent() for _ in range(3)]
    latents[0].dropped = True
    for latent in latents:
        crowded.keep(latent, PICTURE)
    crowded.go_on.set()
    crowded.close()
    assert [latent.stage for latent in latents] == [Stage.DECODING, Stage.STOPPED, Stage.STOPPED]
    assert (crowded.rooms, waiting(crowded)) == ([False], 0)


def test_pictures_that_are_larger_than_the_memory_keep_every_thread_busy_all_the_same(crowded):
    large = np.zeros((240, 400, 3), dtype=np.uint8)
    crowded.keep(make_latent(), large)
    assert not crowded.full
    crowded.keep(make_latent(), large)
    assert crowded.full


def test_how_many_threads_store_pictures_depends_on_the_cores():
    assert [images.threads_for(cores) for cores in (1, 2, 8, 12, 16, 128)] == [2, 2, 2, 3, 4, 4]
