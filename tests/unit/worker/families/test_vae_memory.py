"""How a VAE decodes where memory is short, and what that does to pictures."""

import itertools

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor
from tiny_models import autoencoder
from tiny_qwen_models import qwen_image
from torch.profiler import ProfilerActivity, profile

from collodion.worker.families import tiles, vae_memory
from collodion.worker.families.qwen_image import FilmVae
from collodion.worker.families.tiles import Tiling, decoded_in_tiles
from collodion.worker.families.vae import Vae
from collodion.worker.families.vae_memory import FrugalVae, Way, free_bytes, working_bytes
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.wishes import VaeMemory

PLENTY = 1 << 50
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vae():
    """Two pixels on a latent pixel's side."""
    torch.manual_seed(0)
    made = autoencoder(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        sample_size=16,
    )
    return Vae(made.eval(), VaeImageProcessor(), 2)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "_LEAST", 8)


def latents(count, height=20, width=20, channels=4):
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(1))


class Decodes:
    """In the place of a VAE: notes what it is asked to decode, and has so much memory."""

    def __init__(self, vae, most_latent_pixels=PLENTY):
        self.shapes = []
        self.vae, self.most = vae, most_latent_pixels

    def __getattr__(self, name):
        return getattr(self.vae, name)

    def decode(self, latents):
        count, _, height, width = latents.shape
        self.shapes.append((count, height, width))
        if count * height * width > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.vae.decode(latents)

    def decode_in_tiles(self, latent, tiling):
        return Vae.decode_in_tiles(self, latent, tiling)


def frugal(vae, wish=VaeMemory.AUTO, rows=0, free=lambda: PLENTY):
    said = []
    made = FrugalVae(vae, wish, rows, free, said.append)
    return made, said


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def close(ours, expected):
    return float((ours - expected).abs().max()) < 1e-5


# ---------------------------------------------------------------------- ways


def test_whole_decodes_a_batch_at_once(vae):
    decodes = Decodes(vae)
    frugal(decodes, VaeMemory.WHOLE, free=lambda: 0)[0].decode(latents(3))
    assert decodes.shapes == [(3, 20, 20)]


def test_sliced_decodes_one_by_one_what_whole_decodes_at_once(vae):
    expected = vae.decode(latents(3))
    decodes = Decodes(vae)
    assert close(frugal(decodes, VaeMemory.SLICED)[0].decode(latents(3)), expected)
    assert decodes.shapes == [(1, 20, 20)] * 3


def test_auto_decodes_at_once_what_fits(vae):
    decodes = Decodes(vae)
    made, said = frugal(decodes)
    made.decode(latents(4))
    assert decodes.shapes == [(4, 20, 20)]
    assert said == []


def test_auto_decodes_as_many_at_once_as_fit_and_counts_it(vae, small_tiles, caplog):
    expected = vae.decode(latents(5))
    room = int(1.35 * working_bytes(vae) * 2.5 * 400) + 5 * 40 * 40 * 48  # for two and a half, and the pictures
    decodes = Decodes(vae)
    made, said = frugal(decodes, free=lambda: room)
    for _ in range(2):
        assert close(made.decode(latents(5)), expected)
    assert decodes.shapes == [(2, 20, 20), (2, 20, 20), (1, 20, 20)] * 2
    assert said == ["sliced"] * 2
    assert [record.message for record in caplog.records] == ["memory is short: latents are decoded 2 at a time"]


def test_auto_cuts_a_latent_into_tiles_only_if_it_does_not_fit_alone(vae, small_tiles):
    room = int(1.35 * working_bytes(vae) * 0.9 * 400) + 40 * 40 * 48
    decodes = Decodes(vae)
    made, said = frugal(decodes, free=lambda: room)
    assert made.decode(latents(1)).shape == (1, 3, 40, 40)
    assert decodes.shapes == [(1, 8, 8)] * 10  # the first for what all are normalised by
    assert said == ["tiled"]


def test_a_latent_as_small_as_a_tile_is_never_cut(vae):
    for wish in (VaeMemory.TILED, VaeMemory.AUTO):
        decodes = Decodes(vae)
        frugal(decodes, wish, free=lambda: 0)[0].decode(latents(2, 64, 20))
        assert decodes.shapes == [(1, 64, 20)] * 2


def test_where_memory_ends_all_the_same_less_is_decoded_at_a_time_and_that_is_remembered(vae, small_tiles):
    expected = vae.decode(latents(8))
    decodes = Decodes(vae, most_latent_pixels=1000)
    made, said = frugal(decodes, free=lambda: 1 << 30)
    assert close(made.decode(latents(8)), expected)
    assert decodes.shapes == [(8, 20, 20), (4, 20, 20), *[(2, 20, 20)] * 4]
    decodes.shapes.clear()
    made.decode(latents(8))
    assert decodes.shapes == [(2, 20, 20)] * 4
    assert said == ["sliced"] * 3
    decodes.shapes.clear()
    made.decode(latents(8, 10, 10))  # nothing is known of another size
    assert decodes.shapes == [(8, 10, 10)]


def test_where_there_is_more_memory_later_more_is_decoded_at_a_time_again(vae):
    room = [1 << 30]
    decodes = Decodes(vae, most_latent_pixels=1000)
    made, _ = frugal(decodes, free=lambda: room[0])
    made.decode(latents(4))
    decodes.most, room[0] = PLENTY, 1 << 32
    decodes.shapes.clear()
    made.decode(latents(4))
    assert decodes.shapes == [(4, 20, 20)]


def test_memory_that_does_not_suffice_for_a_tile_is_said(vae, small_tiles):
    decodes = Decodes(vae, most_latent_pixels=10)
    made, said = frugal(decodes)
    with pytest.raises(MemoryError):
        made.decode(latents(2))
    assert decodes.shapes == [(2, 20, 20), (1, 20, 20), (1, 8, 8)]
    assert said == ["sliced", "tiled"]
    for wish, shape in ((VaeMemory.WHOLE, (2, 20, 20)), (VaeMemory.SLICED, (1, 20, 20))):
        decodes.shapes.clear()
        with pytest.raises(MemoryError):
            frugal(decodes, wish)[0].decode(latents(2))
        assert decodes.shapes == [shape]


def test_a_reproducible_workers_pictures_do_not_depend_on_what_is_free(vae):
    decodes = Decodes(vae)
    made, said = frugal(decodes, rows=4, free=lambda: 0)
    assert made.decode(latents(3)).shape == (3, 3, 40, 40)
    assert decodes.shapes == [(4, 20, 20)]
    assert said == []
    assert made.optimization.value == "whole"


def test_who_asks_for_tiles_that_cannot_be_cut_is_told(vae, monkeypatch):
    monkeypatch.setattr(vae, "_vae", torch.nn.Identity())
    with pytest.raises(Unsuitable, match="cuts no tiles"):
        frugal(vae, VaeMemory.TILED)


def test_pieces_are_latents_or_rows_of_tiles_and_make_the_same_pictures(vae, small_tiles, monkeypatch):
    expected = [frugal(vae, wish)[0].decode(latents(2)) for wish in (VaeMemory.SLICED, VaeMemory.TILED)]
    for wish, pictures, pieces in zip((VaeMemory.AUTO, VaeMemory.TILED), expected, (2, 6), strict=True):
        made = list(frugal(vae, wish)[0].in_pieces(latents(2)))
        assert len(made) == pieces
        assert close(torch.cat([piece for piece in made if piece is not None]), pictures)


def test_pieces_are_cut_smaller_where_memory_ends_all_the_same(vae, small_tiles):
    expected = frugal(vae, VaeMemory.TILED)[0].decode(latents(1))
    decodes = Decodes(vae, most_latent_pixels=100)
    made, said = frugal(decodes, free=lambda: 1 << 30)
    for _ in range(2):
        *before, picture = made.in_pieces(latents(1))
        assert before == [None, None]
        assert close(picture, expected)
    assert decodes.shapes == [(1, 20, 20), *[(1, 8, 8)] * 20]  # what was found out is remembered
    assert said == ["tiled"] * 2
    decodes.most = 10
    with pytest.raises(MemoryError):
        list(made.in_pieces(latents(1)))


# ---------------------------------------------------------------------- tiles


@pytest.mark.parametrize(("length", "spans"), [(8, [(0, 8)]), (9, [(0, 8), (1, 9)]), (14, [(0, 8), (6, 14)])])
def test_tiles_are_of_one_size_and_evenly_spread(length, spans):
    assert Tiling(8, 6).spans(length) == spans


def test_every_part_of_a_latent_lies_in_a_tile_and_tiles_overlap_as_they_should():
    for length in range(9, 300):
        spans = Tiling(8, 6).spans(length)
        assert (spans[0][0], spans[-1][1]) == (0, length)
        assert all(end - begin == 8 for begin, end in spans)
        assert all(0 < after - before <= 6 for (before, _), (after, _) in itertools.pairwise(spans))


def test_tiles_are_those_of_diffusers_where_they_are_cut_at_the_same_places(vae, small_tiles, monkeypatch):
    ours = torch.cat(list(decoded_in_tiles(vae.decode, latents(2, 20, 14), vae.tilings[0], 2)), dim=2)
    module = vae._vae
    monkeypatch.setattr(module, "use_tiling", True)
    theirs = vae.decode(latents(2, 20, 14))
    kept = 2 * 18, 2 * 12  # from there on diffusers has one more tile, which lies within the last
    assert close(ours[:, :, : kept[0], : kept[1]], theirs[:, :, : kept[0], : kept[1]])


def test_qwen_images_tiles_are_those_of_diffusers(small_tiles, monkeypatch):
    torch.manual_seed(0)
    vae = FilmVae(qwen_image().vae.eval(), VaeImageProcessor(), 8)
    monkeypatch.setattr(vae._vae, "tile_sample_min_height", 64)
    monkeypatch.setattr(vae._vae, "tile_sample_min_width", 64)
    monkeypatch.setattr(vae._vae, "tile_sample_stride_height", 48)
    monkeypatch.setattr(vae._vae, "tile_sample_stride_width", 48)
    latent = latents(1, 14, 14, vae.channels)
    made, _ = frugal(vae, VaeMemory.TILED)
    ours = made.decode(latent)
    monkeypatch.setattr(vae._vae, "use_tiling", True)
    theirs = vae.decode(latent)
    assert close(ours[:, :, : 8 * 12, : 8 * 12], theirs[:, :, : 8 * 12, : 8 * 12].clamp(-1, 1))


def decibel(ours, expected):
    """Peak signal to noise ratio of pictures around -1..1."""
    return float(-10 * ((ours.clamp(-1, 1) - expected.clamp(-1, 1)) / 2).square().mean().log10())


def test_the_embedded_models_pictures_in_tiles_are_much_like_whole_ones():
    module = AutoencoderKL.from_pretrained("worker/collodion/worker/shapes/vae").eval()
    vae = Vae(module, VaeImageProcessor(), 4)
    size = 4 * 72
    down, across = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    picture = torch.full((1, 3, size, size), 0.6)
    for number, (top, left, radius) in enumerate([(90, 120, 60), (200, 180, 60), (240, 80, 30), (80, 220, 40)]):
        inside = (down - top) ** 2 + (across - left) ** 2 < radius**2
        picture[0, :, inside] = torch.tensor([[0.9], [-0.8], [0.1 * number]])
    latent = vae.normalise(vae.encode(picture)[0].mean[None])
    whole = vae.decode(latent)
    tiled = frugal(vae, VaeMemory.TILED)[0].decode(latent)
    assert 38 < decibel(tiled, whole) < 100  # each normalised by itself, tiles are at 20


def test_a_decoder_is_what_it_was_after_tiles_were_decoded_or_broken_off(vae, small_tiles, monkeypatch):
    before = vae.decode(latents(1))
    decoder = vae._vae.decoder
    captured = decoder.forward
    monkeypatch.setattr(decoder, "forward", lambda given: captured(given), raising=True)
    mine = decoder.__dict__["forward"]
    rows = vae.decode_in_tiles(latents(1), vae.tilings[0])
    next(rows)
    rows.close()
    assert decoder.__dict__["forward"] is mine
    assert bool((vae.decode(latents(1)) == before).all())


def test_tiles_of_a_half_precision_decoder_are_those_of_a_full_one(small_tiles):
    torch.manual_seed(0)
    module = autoencoder().eval()
    (full, *halves) = (
        frugal(Vae(torch.nn.Module.to(module, dtype), VaeImageProcessor(), 8), VaeMemory.TILED)[0].decode(
            latents(1, 12, 12)
        )
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    )
    for half in halves:
        assert half.dtype is not torch.float32
        assert decibel(half.float(), full) > 35


# ---------------------------------------------------------------------- memory


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_what_decoding_takes_is_what_was_counted(size, vae):
    module = AutoencoderKL.from_pretrained("worker/collodion/worker/shapes/vae").eval()
    for each, factor in ((vae, 2), (Vae(module, VaeImageProcessor(), 4), 4)):
        assert each.factor == factor
        latent = latents(2, *size)
        each.decode(latent)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            each.decode(latent)
        counted = frugal(each)[0].expected_bytes(Way(2), *size)
        assert 0.75 < counted / peak(profiled) < 1.25


def peak(profiled):
    """The most bytes that were allocated at once, beyond what was at the start."""
    totals = [event.nbytes() for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated = most = 0
    for nbytes in totals:
        allocated += nbytes
        most = max(most, allocated)
    return most


def test_half_precision_takes_half_the_memory(vae):
    torch.manual_seed(0)
    half = Vae(torch.nn.Module.to(autoencoder(), torch.float16), VaeImageProcessor(), 8)
    full = Vae(autoencoder(), VaeImageProcessor(), 8)
    assert working_bytes(half) == pytest.approx(working_bytes(full) / 2, rel=0.01)


def test_counting_takes_no_memory_and_leaves_the_decoder_as_it_is(vae):
    before = vae.decode(latents(1))
    counted = working_bytes(vae)
    assert working_bytes(vae) == counted > 0
    assert bool((vae.decode(latents(1)) == before).all())


def test_memory_is_what_the_machine_has_left_or_the_limit_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(vae_memory, "_CONTAINER", tmp_path)
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 3\ninactive_file 5000\n")
    for limit, left in (("1000000\n", 305_000), ("600000\n", 0)):
        (tmp_path / "memory.max").write_text(limit)
        assert free_bytes(CPU) == left
    (tmp_path / "memory.max").write_text("max\n")
    assert 1 << 20 < free_bytes(CPU) < 1 << 62
