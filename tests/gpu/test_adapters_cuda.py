"""Adapters by the row on a GPU: the same as on the CPU, and one CUDA graph for any of them.

Written without a GPU at hand; run by `make test-gpu`.
"""

import diffusers
import pytest
from safetensors.torch import save_file

torch = pytest.importorskip("torch")

from collodion.worker.adapters.adapters import AdapterBudgets, Adapters  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PLENTY = AdapterBudgets(1 << 30, 1 << 30)
RANKS = 16


def tiny(device):
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    return unet.eval().requires_grad_(False).to(device)


def write(path, adapters, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, site in adapters.sites["unet"].items():
        tensors[f"unet.{name}.lora_A.weight"] = torch.randn(rank, *site.shape[1:], generator=generator) * 0.1
        tensors[f"unet.{name}.lora_B.weight"] = (
            torch.randn(site.shape[0], rank, *[1] * (len(site.shape) - 2), generator=generator) * 0.1
        )
    save_file(tensors, path)
    return path


def call(device):
    generator = torch.Generator().manual_seed(1)
    return {
        "sample": torch.randn(4, 4, 16, 16, generator=generator).to(device),
        "timestep": torch.tensor([900.0, 500.0, 20.0, 1.0]).to(device),
        "encoder_hidden_states": torch.randn(4, 8, 24, generator=generator).to(device),
    }


@pytest.fixture
def on_the_gpu(tmp_path):
    unet = tiny("cuda")
    adapters = Adapters({"unet": unet}, PLENTY, every_row=False)
    files = [write(tmp_path / f"{rank}.safetensors", adapters, rank, rank) for rank in (2, 5, 8)]
    return unet, adapters, files


def rows_of(adapters, files):
    a, b, c = (adapters.load(file) for file in files)
    return {
        "mixed": [(a.at(0.5),), (), (b.at(1.0), c.at(-0.3)), (c.at(0.7),)],
        "few": [(), (a.at(0.5),), (a.at(0.5),), ()],
        "shared": [(b.at(0.4),)] * 4,
        "none": [()] * 4,
    }


@torch.inference_mode()
def test_rows_are_what_they_are_on_the_cpu(on_the_gpu):
    unet, adapters, files = on_the_gpu
    host = tiny("cpu")
    same = Adapters({"unet": host}, PLENTY)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for name, rows in rows_of(adapters, files).items():
        with adapters.applied(adapters.select("unet", rows)):
            ours = unet(**call("cuda"), return_dict=False)[0].cpu()
        with same.applied(same.select("unet", rows_of(same, files)[name])):
            theirs = host(**call("cpu"), return_dict=False)[0]
        assert (ours - theirs).abs().max() < 1e-3, name


@torch.inference_mode()
def test_blocks_are_pinned_and_come_to_the_device_in_one_copy_each(on_the_gpu):
    _, adapters, files = on_the_gpu
    (block,) = adapters.load(files[0]).components["unet"].blocks.values()
    assert block.is_pinned()


@torch.inference_mode()
def test_one_graph_runs_with_any_adapters(on_the_gpu):
    unet, adapters, files = on_the_gpu
    batches = rows_of(adapters, files)
    for rows in batches.values():
        adapters.select("unet", rows)
    chosen = adapters.select("unet", batches["none"], ranks=RANKS)
    static = {name: tensor.clone() for name, tensor in chosen.tensors().items()}
    captured = chosen.bound(static)
    inputs, graph = call("cuda"), torch.cuda.CUDAGraph()
    with adapters.applied(captured):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                unet(**inputs, return_dict=False)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            (output,) = unet(**inputs, return_dict=False)
    moves = adapters.bank.moves
    for rows in (batches["mixed"], batches["shared"], batches["few"], batches["none"]):
        fresh = adapters.select("unet", rows, ranks=RANKS)
        for name, tensor in fresh.tensors().items():
            static[name].copy_(tensor)
        graph.replay()
        with adapters.applied(fresh):
            (expected,) = unet(**inputs, return_dict=False)
        assert torch.allclose(output, expected, atol=1e-4)
    assert adapters.bank.moves == moves
