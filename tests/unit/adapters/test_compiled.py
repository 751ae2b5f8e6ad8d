"""Compiled models: adapters come, go and change without anything being compiled again, if so many ranks are gathered whoever is there."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from written_files import diffusers_file

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
        diffusers_file(tmp_path / f"{rank}.safetensors", {"unet": model}, rank=rank, seed=rank, wanted=lambda *_: True)
        for rank in (1, 3, 4)
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
    ]
    for rows in batches:
        selection = adapters.select("unet", rows, ranks=RANKS)
        with torch.inference_mode(), adapters.applied(selection):
            assert torch.allclose(compiled(sample), model(sample), atol=1e-6)
    assert counter.frame_count == 1
    moved = adapters.bank.moves
    adapters.select("unet", batches[1], ranks=RANKS)
    assert adapters.bank.moves == moved  # so a CUDA graph that was captured with these pools still reads them
