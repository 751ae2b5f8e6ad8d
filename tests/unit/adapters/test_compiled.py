"""Compiled models: adapters come, go and change without anything being compiled again, if so many ranks are gathered whoever is there."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from tiny_pipelines import inputs, sd1
from torch import nn
from torch._dynamo.testing import CompileCounter
from written_files import attention_only, diffusers_file, factors, linear_only, modules, write

from collodion.worker.adapters.adapters import AdapterBudgets, Adapters
from collodion.worker.adapters.sites import Segment
from collodion.worker.optimize.compilation import BlockCompiler, compile_blocks, repeated_blocks
from collodion.worker.optimize.ready import STEP, Signature

sys.path.insert(0, str(Path(__file__).parents[1] / "optimize"))

from replaying import NEEDS_COMPILER, Notes

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


class Compiled:
    """A denoiser whose blocks are compiled, with so many ranks for each of its rows, and without any; and adapters for it."""

    def __init__(self, denoiser, call, rows, backend, budget=1 << 22):
        self.adapters = Adapters({"unet": denoiser}, AdapterBudgets(budget, 1 << 22))
        compile_blocks(denoiser, backend)
        self.adapters.fix("unet", repeated_blocks(denoiser))
        self.heard = Notes()
        self.call, self._rows, self._selection, self._denoiser = call, rows, None, denoiser
        maker = BlockCompiler(denoiser, self.heard, backend)
        self.bare = maker.make(Signature.of(STEP, None, call), self._run, call)
        self._selection = self.adapters.select("unet", [()] * rows, ranks=RANKS)
        self.gathered = maker.make(Signature.of(STEP, None, call), self._run, call)

    def _run(self, tensors):
        with self.adapters.applied(self._selection) if self._selection else nullcontext():
            output = self._denoiser(**tensors)
        return {"out": output if isinstance(output, torch.Tensor) else output.sample}

    def differences(self, *rows):
        """Of what is compiled from what is not, relative to it."""
        self._selection = self.adapters.select("unet", rows, ranks=RANKS if any(rows) else 0)
        compiled = (self.gathered if any(rows) else self.bare)(self._run, self.call)["out"]
        self._selection = self.adapters.select("unet", rows)
        with torch.inference_mode():
            expected = self._run(self.call)["out"]
        return float((compiled - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module", autouse=True)
def _kernels(tmp_path_factory):
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.getbasetemp() / "compiled")
    yield
    os.environ.pop("XDG_CACHE_HOME")
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before


def keys_only(component, path, module):
    return attention_only(component, path, module) and "to_k" in path


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_adapters_of_any_modules_come_and_go_without_a_block_being_compiled_again(tmp_path):
    """Which pools are open, how many pages they have and where they lie: none of it is in the guards."""
    unet = {"unet": sd1()["unet"].requires_grad_(False)}
    counter = CompileCounter()
    compiled = Compiled(unet["unet"], inputs("sd1", 3), 3, counter)
    kinds = ((2, attention_only), (4, keys_only), (8, lambda *_: True), (12, linear_only))
    keys, some, all_, linear = (
        compiled.adapters.load(
            diffusers_file(tmp_path / f"{rank}.safetensors", unet, rank=rank, seed=rank, wanted=wanted)
        ).at(0.7)
        for rank, wanted in kinds
    )
    count, moves = counter.frame_count, compiled.adapters.bank.moves
    for rows in (
        [(), (), ()],
        [(keys,), (), ()],
        [(some,), (keys,), ()],
        [(all_,), (linear,), (keys, some)],
        [(), (all_, keys), (linear,)],
    ):
        assert compiled.differences(*rows) < 1e-5
    assert compiled.adapters.bank.moves > moves
    compiled.adapters.bank.clear()
    for rows in ([(), (keys,), ()], [(all_,), (all_,), (all_,)], [(), (), ()]):
        assert compiled.differences(*rows) < 1e-5
    assert counter.frame_count == count
    assert compiled.heard.fallbacks == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_adapter_that_is_no_product_runs_eagerly_and_is_counted(tmp_path):
    unet = {"unet": OneBlock().eval().requires_grad_(False)}
    compiled = Compiled(unet["unet"], {"sample": torch.randn(2, 5, 8)}, 2, CompileCounter())
    tensors = {}
    for _, path, module in modules(unet, keys_only):
        down, up = factors(module, 2, torch.Generator().manual_seed(1))
        tensors[f"lora_unet_{path.replace('.', '_')}.diff"] = up.flatten(1) @ down.flatten(1)
    whole = compiled.adapters.load(write(tmp_path / "whole.safetensors", tensors)).at(0.5)
    assert compiled.adapters.select("unet", [(whole,), ()], ranks=RANKS).merges
    assert compiled.differences((whole,), ()) < 1e-5
    assert compiled.heard.fallbacks == ["recompile"]
    assert not compiled.adapters.select("unet", [(), ()], ranks=RANKS).merges


def test_zeros_stand_in_for_pools_that_are_closed_and_take_no_memory_of_their_own(tmp_path):
    unet = {"unet": sd1()["unet"].requires_grad_(False)}
    adapters = Adapters(unet, AdapterBudgets(1 << 22, 1 << 22))
    paths = repeated_blocks(unet["unet"])
    adapters.fix("unet", paths)
    inside = {site for path, site in adapters.sites["unet"].items() if path.startswith(tuple(paths))}
    assert adapters.bank.allocated == 0
    assert len({site.pool.down.data_ptr() for site in inside}) == len({site.segment for site in inside})
    keys = adapters.load(diffusers_file(tmp_path / "keys.safetensors", unet, rank=30, wanted=keys_only)).at(1.0)
    adapters.select("unet", [(keys,)])
    opened = {site for site in inside if site.pool.pages}
    attention = {site for site in inside if site.segment is Segment.ATTENTION}
    assert opened == {site for site in attention if "to_k" in site.path}
    assert {len(site.pool.down) for site in attention} == {max(site.pool.pages for site in opened)}
    assert not any(site.pool.down.any() or site.pool.up.any() for site in inside - opened)
    adapters.bank.clear()
    assert adapters.bank.allocated == 0
    assert len({site.pool.up.data_ptr() for site in inside}) == len({site.segment for site in inside})


class OneBlock(nn.Module):
    """A denoiser whose only block has a layer for each segment that transformer blocks have."""

    _repeated_blocks = ("Block",)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.ModuleDict({"to_k": nn.Linear(8, 8)})
            self.ff = nn.Linear(8, 8)

        def forward(self, sample):
            return sample + self.ff(torch.relu(self.attn["to_k"](sample)))

    def __init__(self):
        super().__init__()
        self.block = self.Block()

    def forward(self, sample):
        return self.block(sample)


@NEEDS_COMPILER
@pytest.mark.timeout(300)  # a compiler runs some times
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_kernels_gather_what_each_row_has(tmp_path):
    """With inductor: sizes that it only knows when it runs."""
    torch.manual_seed(0)
    unet = {"unet": OneBlock().eval().requires_grad_(False)}
    compiled = Compiled(unet["unet"], {"sample": torch.randn(3, 5, 8)}, 3, "inductor")
    uses = [
        compiled.adapters.load(
            diffusers_file(tmp_path / f"{rank}.safetensors", unet, rank=rank, seed=rank, wanted=wanted)
        ).at(0.7)
        for rank, wanted in ((2, lambda *_: True), (4, keys_only), (8, lambda *_: True))
    ]
    for rows in (
        [(), (), ()],
        [(uses[1],), (), ()],
        [(uses[0],), (uses[1], uses[2]), ()],
        [(uses[2],), (uses[2],), (uses[2],)],
    ):
        assert compiled.differences(*rows) < 1e-5
    assert compiled.heard.fallbacks == []
