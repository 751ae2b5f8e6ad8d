"""Compiled models: adapters come, go and change without anything being compiled again, if so many ranks are gathered whoever is there."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from written_files import diffusers_file, linear_only

from collodion.worker.adapters.adapters import AdapterBudgets, Adapters

RANKS = 16


class Small(nn.Module):
    """A convolution and a layer, as UNets have them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.linear = nn.Linear(8, 6)

    def forward(self, sample):
        return self.linear(self.conv(sample).flatten(2).transpose(1, 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_another_composition_of_the_batch_compiles_nothing_new(tmp_path):
    torch.manual_seed(0)
    model = Small().eval().requires_grad_(False)
    adapters = Adapters({"unet": model}, AdapterBudgets(1 << 20, 1 << 20))
    files = [
        diffusers_file(tmp_path / f"{rank}.safetensors", {"unet": model}, rank=rank, seed=rank, wanted=wanted)
        for rank, wanted in ((1, lambda *_: True), (3, linear_only), (4, lambda *_: True))
    ]
    uses = [adapters.load(file).at(0.5 + number) for number, file in enumerate(files)]
    adapters.select("unet", [tuple(uses)])  # all pools have their room
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    sample = torch.randn(3, 4, 5, 5)
    batches = [
        [(uses[0],), (), (uses[1],)],
        [(uses[0], uses[1]), (uses[2],), ()],
        [(uses[2],)] * 3,
        [(), (), (uses[1],)],
        [(), (), ()],
    ]
    for rows in batches:
        selection = adapters.select("unet", rows, ranks=RANKS)
        with torch.inference_mode(), adapters.applied(selection):
            assert torch.allclose(compiled(sample), model(sample), atol=1e-6)
    assert counter.frame_count == 1
    moved = adapters.bank.moves
    adapters.select("unet", batches[1], ranks=RANKS)
    assert adapters.bank.moves == moved  # so a CUDA graph that was captured with these pools still reads them


def test_what_was_captured_with_one_selection_runs_with_the_adapters_of_another(tmp_path):
    """As a CUDA graph has it, which reads the tensors that it was captured with: here the selection plays the graph."""
    torch.manual_seed(0)
    model = Small().eval().requires_grad_(False)
    adapters = Adapters({"unet": model}, AdapterBudgets(1 << 20, 1 << 20))
    one, other = (
        adapters.load(
            diffusers_file(tmp_path / f"{seed}.safetensors", {"unet": model}, rank=seed, seed=seed, wanted=wanted)
        ).at(1.0)
        for seed, wanted in ((2, linear_only), (3, lambda *_: True))
    )
    adapters.select("unet", [(one, other)])
    captured = adapters.select("unet", [(), ()], ranks=RANKS)
    static = {name: tensor.clone() for name, tensor in captured.tensors().items()}
    captured = captured.bound(static)
    sample = torch.randn(2, 4, 5, 5)

    def run(selection):
        with torch.inference_mode(), adapters.applied(selection):
            return model(sample)

    for rows in ([(one,), (other,)], [(), (one, other)], [(), ()]):
        fresh = adapters.select("unet", rows, ranks=RANKS)
        for name, tensor in fresh.tensors().items():
            static[name].copy_(tensor)
        assert torch.equal(run(captured), run(fresh))
        assert torch.allclose(run(captured), run(adapters.select("unet", rows)), atol=1e-5)
    assert adapters.select("unet", [(other,), (other,)]).tensors() is None  # not gathered: there is nothing to copy
    assert adapters.select("unet", [(), ()]).tensors() == {}
