"""The two ends on a GPU: decoding in what memory there is, and beside the steps; texts from the cache; pinned copies.

Written without a GPU at hand; run by `make test-gpu`.
"""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "worker" / "families"))

from diffusers import AutoencoderKL  # noqa: E402
from diffusers.image_processor import VaeImageProcessor  # noqa: E402
from tiny_models import save  # noqa: E402

from collodion.wire.jobs import Parameters  # noqa: E402
from collodion.worker.config import WorkerConfig  # noqa: E402
from collodion.worker.families.device import Device  # noqa: E402
from collodion.worker.families.vae import Vae  # noqa: E402
from collodion.worker.families.vae_memory import FrugalVae, Way, free_bytes  # noqa: E402
from collodion.worker.models import load_models  # noqa: E402
from collodion.worker.optimize.wishes import VaeMemory  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PLACE = torch.device("cuda:0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save("sd1", tmp_path_factory.mktemp("ends") / "sd1")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def load(folder, *optimize, **settings):
    words = ("dtype=float32", "cuda_graphs=off", *optimize)
    return load_models(WorkerConfig(models=(f"sd1={folder}",), device="cuda:0", optimize=words, **settings))[1]["sd1"]


def large_vae(dtype):
    """As large as Stable Diffusion's, with random weights."""
    torch.manual_seed(0)
    with PLACE:
        module = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=512,
        )
    return Vae(torch.nn.Module.to(module, dtype).eval(), VaeImageProcessor(), 8)


def frugal(vae, wish):
    return FrugalVae(vae, wish, 0, lambda: free_bytes(PLACE), lambda how: None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_what_decoding_takes_is_what_was_counted(dtype, size):
    vae = large_vae(dtype)
    made = frugal(vae, VaeMemory.WHOLE)
    latents = torch.randn(2, 4, *size, device=PLACE)
    made.decode(latents)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(PLACE)
    torch.cuda.reset_peak_memory_stats(PLACE)
    made.decode(latents)
    torch.cuda.synchronize()
    taken = torch.cuda.max_memory_allocated(PLACE) - before
    print(dtype, size, "taken", taken >> 20, "MiB, counted", made.expected_bytes(Way(2), *size) >> 20, "MiB")
    assert taken < 1.35 * made.expected_bytes(Way(2), *size)
    assert taken > 0.5 * made.expected_bytes(Way(2), *size)


def test_one_by_one_is_what_it_is_at_once(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    vae = large_vae(torch.float32)
    latents = torch.randn(3, 4, 64, 64, device=PLACE)
    whole, sliced = (frugal(vae, wish).decode(latents) for wish in (VaeMemory.WHOLE, VaeMemory.SLICED))
    assert float((whole - sliced).abs().max() / whole.abs().max()) < 1e-3


def test_a_picture_that_does_not_fit_is_decoded_in_tiles():
    """With so much of the memory taken that a picture of 2048x2048 pixels does not fit, and one of its tiles does."""
    vae = large_vae(torch.float32)
    told = []
    made = FrugalVae(vae, VaeMemory.AUTO, 0, lambda: free_bytes(PLACE), told.append)
    torch.cuda.empty_cache()
    leave = int(0.5 * made.expected_bytes(Way(1), 256, 256))
    free, _ = torch.cuda.mem_get_info(PLACE)
    ballast = torch.empty(free - leave, dtype=torch.uint8, device=PLACE)
    try:
        decoded = made.decode(torch.randn(1, 4, 256, 256, device=PLACE))
        assert decoded.shape == (1, 3, 2048, 2048)
        assert bool(decoded.isfinite().all())
        assert told == ["tiled"]
    finally:
        del ballast
        torch.cuda.empty_cache()


def drawn(pipeline, steps_beside):
    """Three latents, and as many as `steps_beside` that are stepped while those are decoded. Their pictures, and the others' latents."""
    jobs = [Parameters("sd1", "a red circle", "blue", 64, 64, 4, "ddim", 4.0, seed, 1) for seed in range(3)]
    others = [
        Parameters("sd1", "two squares", "", 64, 64, 40, "ddim", 4.0, 9 + seed, 1) for seed in range(steps_beside)
    ]
    states = []
    for job in (*jobs, *others):
        plan = pipeline.prepare(job)
        states.append(pipeline.begin(plan, pipeline.encode([plan]).conditioning[0], job.seed))
    done, running = states[:3], states[3:]
    while not done[0].trajectory.finished:
        pipeline.step(states).span.wait()
    decoded = pipeline.decode(done)
    while running and not running[0].trajectory.finished:
        pipeline.step(running).span.wait()
        if decoded.advance is not None:
            decoded.advance(False)
    decoded.wait()
    return decoded.pictures(), [state.trajectory.latent.cpu() for state in running]


def test_pictures_and_steps_are_the_same_whether_decoding_goes_on_beside_or_between(folder):
    between, beside = (load(folder, f"decode={when}") for when in ("between", "beside"))
    expected, expected_others = drawn(between, 2)
    pictures, others = drawn(beside, 2)
    for ours, other in zip(pictures, expected, strict=True):
        assert int(abs(ours.astype(int) - other.astype(int)).max()) <= 1
    for ours, other in zip(others, expected_others, strict=True):
        assert float((ours - other).abs().max() / other.abs().max()) < 1e-3
    detail = next(one.detail for one in beside.optimizations if one.name == "decode")
    print(detail)
    assert "beside a piece" in detail  # what a piece costs was learned, from the device's clock


def test_what_is_left_of_a_batch_is_decoded_at_once_while_its_first_piece_is_under_way(folder):
    pipeline = load(folder, "decode=beside")
    job = Parameters("sd1", "a red circle", "blue", 64, 64, 8, "ddim", 4.0, 5, 1)
    plan = pipeline.prepare(job)
    states = [pipeline.begin(plan, pipeline.encode([plan]).conditioning[0], seed) for seed in range(3)]
    while not states[0].trajectory.finished:
        pipeline.step(states).span.wait()
    decoded = pipeline.decode(states)
    busy = torch.randn(8192, 8192, device=PLACE)
    for _ in range(20):
        busy = busy @ busy / 8192  # pieces wait for what was issued before them
    assert not decoded.advance(False)
    assert decoded.wait() > 0
    assert len(decoded.pictures()) == 3


def test_memory_of_a_latent_is_not_given_away_while_it_is_decoded_beside(folder):
    pipeline = load(folder, "decode=beside")
    job = Parameters("sd1", "a red circle", "blue", 64, 64, 4, "ddim", 4.0, 5, 1)
    plan = pipeline.prepare(job)
    pictures = []
    for spoil in (False, True):
        state = pipeline.begin(plan, pipeline.encode([plan]).conditioning[0], 5)
        while not state.trajectory.finished:
            pipeline.step([state]).span.wait()
        decoded = pipeline.decode([state])
        decoded.advance(True)
        if spoil:
            del state
            for _ in range(50):
                torch.full((1, 4, 8, 8), float("nan"), device=PLACE)
        decoded.wait()
        pictures.append(decoded.pictures()[0])
    assert (pictures[0] == pictures[1]).all()


def test_cached_texts_are_those_that_would_be_encoded(folder):
    cached, fresh = load(folder), load(folder, text_cache_mib=0)
    jobs = [Parameters("sd1", text, "blue", 64, 64, 4, "ddim", 4.0, 1, 1) for text in ("a", "a red circle")]
    for _ in range(2):
        texts, expected = (
            [one.texts for one in model.encode([model.prepare(job) for job in jobs]).conditioning]
            for model in (cached, fresh)
        )
        for ours, other in zip(texts, expected, strict=True):
            for one, two in zip(ours, other, strict=True):
                assert float((one["states"] - two["states"]).abs().max()) < 1e-3
    assert texts[0][1]["states"].data_ptr() == texts[1][1]["states"].data_ptr()  # of the negative prompt


def test_what_goes_to_the_device_may_be_forgotten_on_the_host_at_once():
    device = Device(PLACE)
    busy = torch.randn(4096, 4096, device=PLACE)
    arrived = []
    for number in range(200):
        busy = busy @ busy / 4096  # keeps the stream behind
        arrived.append(device.to_device(torch.full((64,), float(number))))
    assert [float(tensor.mean()) for tensor in arrived] == list(range(200))


def test_copies_are_in_order_on_the_stream_that_makes_them():
    device, stream = Device(PLACE), torch.cuda.Stream(PLACE)
    with torch.cuda.stream(stream):
        made = torch.full((1024, 1024), 3.0, device=PLACE)
        copied = device.to_host(made)
    stream.synchronize()
    assert float(copied.mean()) == 3.0
