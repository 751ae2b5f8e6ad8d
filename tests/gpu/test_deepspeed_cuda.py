"""DeepSpeed's fused blocks in a UNet of Stable Diffusion 1.5 (random weights): what they compute there, and that a graph can hold them.

Written without a GPU at hand; run by `make test-gpu`, where deepspeed, triton before 3.9 and nvcc are installed.
"""

import copy

import pytest
from diffusers import DDIMScheduler, UNet2DConditionModel

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")
pytest.importorskip("triton")

from torch.utils.cpp_extension import CUDA_HOME  # noqa: E402

from collodion.worker.optimize.deepspeed_blocks import inject_deepspeed  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(CUDA_HOME is None, reason="needs nvcc, with which DeepSpeed's kernels are compiled"),
    pytest.mark.filterwarnings("default"),  # of compilers, and of Triton, that block pointers are to go
    pytest.mark.timeout(1200),  # the first to use the kernels compiles them
]

PLACE = torch.device("cuda:0")
NEAR = 2e-2  # float16 rounds at 1e-3, in each of 16 blocks
STEPS = 10


@pytest.fixture(scope="module")
def unets():
    """As it is, and injected, and what that said of itself."""
    torch.manual_seed(0)
    with PLACE:
        plain = UNet2DConditionModel(cross_attention_dim=768).half().eval()
    changed = copy.deepcopy(plain)
    return plain, changed, inject_deepspeed(changed, PLACE, torch.float16)


def inputs(rows, height=64, width=64, tokens=77, seed=0):
    """Latents, timesteps and texts of so many rows."""
    generator = torch.Generator(PLACE).manual_seed(seed)
    drawn = (
        torch.randn(rows, *shape, generator=generator, device=PLACE, dtype=torch.float16)
        for shape in ((4, height, width), (tokens, 768))
    )
    latents, texts = drawn
    return latents, torch.linspace(1, 999, rows, device=PLACE), texts


@torch.inference_mode()
def call(unet, latents, timesteps, texts):
    return unet(latents, timesteps, encoder_hidden_states=texts).sample


def distance(ours, theirs):
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


def test_every_block_is_replaced_and_none_is_far_from_diffusers(unets):
    _, _, became = unets
    assert became.value == "on"
    assert became.detail.startswith("16 of 16 transformer blocks; at most ")


@pytest.mark.parametrize("rows", [1, 2, 5, 16])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 64), (80, 80), (40, 104)])
def test_it_predicts_what_diffusers_predicts_at_every_size(rows, height, width, unets):
    plain, changed, _ = unets
    given = inputs(rows, height, width)
    ours = call(changed, *given)
    assert ours.isfinite().all()
    assert distance(ours, call(plain, *given)) < NEAR


def test_its_picture_is_the_picture_of_half_precision(unets):
    plain, changed, _ = unets
    exact = copy.deepcopy(plain).float()
    ours, half, full = (_draw(unet) for unet in (changed, plain, exact))
    assert distance(ours, half) < NEAR
    assert distance(ours, full) < 2 * distance(half, full) + 1e-3


@torch.inference_mode()
def _draw(unet):
    """The final latent of one prompt with guidance, as diffusers' pipeline draws it."""
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(STEPS, device=PLACE)
    latents, _, _ = inputs(1, seed=3)
    _, _, texts = inputs(2, seed=4)
    latents = latents.float()
    for step in scheduler.timesteps:
        rows = latents.repeat(2, 1, 1, 1).to(unet.dtype)
        negative, prompted = unet(rows, step, encoder_hidden_states=texts.to(unet.dtype)).sample.float().chunk(2)
        latents = scheduler.step(negative + 7.5 * (prompted - negative), step, latents).prev_sample
    return latents


def test_rows_of_strangers_with_and_without_guidance_do_not_touch(unets):
    _, changed, _ = unets
    latents, timesteps, texts = inputs(5)  # two guided latents and one without: five rows
    together = call(changed, latents, timesteps, texts)
    for row in range(5):
        one = slice(row, row + 1)
        assert distance(together[one], call(changed, latents[one], timesteps[one], texts[one])) < NEAR
    texts[4] += 1
    assert torch.equal(call(changed, latents, timesteps, texts)[:4], together[:4])


def test_a_graph_holds_it_and_sees_what_is_copied_into_its_inputs(unets):
    _, changed, _ = unets
    static = inputs(2)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call(changed, *static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(changed, *static)
    call(changed, *inputs(16, 96, 96))  # larger than what was captured: what a workspace that grows would not survive
    for seed in (5, 6):
        given = inputs(2, seed=seed)
        for one, other in zip(static, given, strict=True):
            one.copy_(other)
        graph.replay()
        assert distance(captured, call(changed, *given)) < 1e-3


def test_two_streams_do_not_share_memory(unets):
    _, changed, _ = unets
    given = [inputs(2, seed=seed) for seed in (7, 8)]
    expected = [call(changed, *one) for one in given]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in given]
    results = []
    for _ in range(8):
        for stream, one in zip(streams, given, strict=True):
            with torch.cuda.stream(stream):
                results.append(call(changed, *one))
    torch.cuda.synchronize()
    for index, result in enumerate(results):
        assert distance(result, expected[index % 2]) < 1e-3


def test_a_mask_is_an_error(unets):
    _, changed, _ = unets
    latents, timesteps, texts = inputs(2)
    mask = torch.ones(2, 77, dtype=torch.bool, device=PLACE)
    with pytest.raises(RuntimeError, match="takes no mask"):
        changed(latents, timesteps, texts, encoder_attention_mask=mask)
