"""What is on the device: within the budget, least recently used out first, and right whatever came and went."""

import gc
import os
import random

import pytest
import torch
from tiny_pipelines import MADE, denoise, encode, inputs, prompts
from torch import nn
from written_files import attention_only, diffusers_file

from collodion.worker.adapters import adapters as module
from collodion.worker.adapters.adapters import AdapterBudgets, Adapters
from collodion.worker.adapters.pool import PAGE, Pool
from collodion.worker.registry.errors import ModelUnusable

HOST = 1 << 30
CALL = inputs("sd1", 2)


def unet_attention(component, path, module):
    return component == "unet" and attention_only(component, path, module)


def unet_convolutions(component, path, module):
    return component == "unet" and isinstance(module, nn.Conv2d)


@pytest.fixture
def components():
    return MADE["sd1"]()


@pytest.fixture
def files(components, tmp_path):
    """Eight adapters of attention, of one page each."""
    return [
        diffusers_file(tmp_path / f"{number}.safetensors", components, rank=PAGE, seed=number, wanted=unet_attention)
        for number in range(8)
    ]


def page_bytes(adapters, segment):
    """Of a page of all modules of a kind."""
    return sum(site.pool.page_bytes for site in adapters.sites["unet"].values() if site.segment == segment)


def budget(components, pages, segment="attention"):
    """Adapters whose budget are so many pages of all modules of a kind (one of them holds zeros)."""
    scratch = Adapters(components, AdapterBudgets(0, HOST))
    size = page_bytes(scratch, segment)
    scratch.close()
    return Adapters(components, AdapterBudgets(pages * size, HOST))


@torch.inference_mode()
def run(adapters, components, *rows):
    with adapters.applied(adapters.select("unet", rows)):
        return denoise(components, {name: value[: len(rows)] for name, value in CALL.items()})


def resident(adapters, loaded):
    return [("unet", adapter.key) in adapters.bank.resident for adapter in loaded]


def test_what_was_used_least_recently_makes_room(components, files):
    adapters = budget(components, pages=4)
    loaded = [adapters.load(file) for file in files]
    for adapter in loaded[:3]:
        adapters.select("unet", [(adapter.at(1.0),)])
    assert resident(adapters, loaded[:3]) == [True] * 3
    adapters.select("unet", [(loaded[0].at(1.0),)])
    adapters.select("unet", [(loaded[3].at(1.0),)])
    assert resident(adapters, loaded[:4]) == [True, False, True, True]
    assert adapters.bank.allocated <= adapters.bank.budget_bytes


def test_what_somebody_keeps_goes_last(components, files):
    adapters = budget(components, pages=4)
    loaded = [adapters.load(file) for file in files]
    kept = [adapter.at(1.0) for adapter in loaded[:2]]
    for adapter in loaded[:3]:
        adapters.select("unet", [(adapter.at(1.0),)])
    for adapter in loaded[3:6]:
        adapters.select("unet", [(adapter.at(1.0),)])
        assert resident(adapters, loaded[:2]) == [True, True]
    del kept[0]
    gc.collect()
    adapters.select("unet", [(loaded[6].at(1.0), loaded[5].at(1.0))])
    assert resident(adapters, loaded[:2]) == [False, True]


def test_more_latents_wait_with_adapters_than_fit_and_every_batch_still_runs(components, files):
    adapters = budget(components, pages=3)
    uses = [(adapters.load(file).at(1.0),) for file in files]
    plenty = Adapters(MADE["sd1"](), AdapterBudgets(HOST, HOST))
    expected = [run(adapters, components, use) for use in uses]
    again = [run(adapters, components, use) for use in reversed(uses)][::-1]
    assert all(torch.equal(one, other) for one, other in zip(expected, again, strict=True))
    assert adapters.bank.allocated <= adapters.bank.budget_bytes
    plenty.close()


def test_a_batch_that_the_budget_cannot_hold_is_a_memory_error_and_others_run_on(components, files):
    adapters = budget(components, pages=3)
    uses = [adapters.load(file).at(1.0) for file in files]
    before = run(adapters, components, (uses[0],), (uses[1],))
    with pytest.raises(MemoryError, match=r"0, 1, 2 together do not fit into \d+ MiB"):
        adapters.select("unet", [(uses[0],), (uses[1],), (uses[2],)])
    with pytest.raises(MemoryError):
        adapters.select("unet", [tuple(uses[:3])])
    assert resident(adapters, [uses[0].adapter, uses[1].adapter]) == [True, True]  # nobody made room in vain
    assert torch.equal(run(adapters, components, (uses[0],), (uses[1],)), before)
    nothing = Adapters(MADE["sd1"](), AdapterBudgets(0, HOST))
    with pytest.raises(MemoryError):
        nothing.select("unet", [(nothing.load(files[0]).at(1.0),)])


def test_pages_of_one_kind_of_module_make_room_for_another_kind(components, files, tmp_path):
    wide = diffusers_file(tmp_path / "wide.safetensors", components, rank=PAGE, seed=9, wanted=unet_convolutions)
    adapters = Adapters(components, AdapterBudgets(HOST, HOST))
    convolutions = sum(page_bytes(adapters, segment) for segment in ("convolution", "pointwise"))
    attention = page_bytes(adapters, "attention")
    adapters.bank.budget_bytes = 2 * convolutions + 2 * attention
    many = [adapters.load(file).at(1.0) for file in files]
    assert run(adapters, components, (many[0],)).isfinite().all()
    expected = run(adapters, components, (many[0],))
    for use in many[1:]:
        adapters.select("unet", [(use,)])
    both = adapters.load(wide).at(0.5)
    mixed = run(adapters, components, (many[0],), (both,))
    assert adapters.bank.allocated <= adapters.bank.budget_bytes
    assert torch.allclose(mixed[:1], expected, atol=1e-5)
    fresh = Adapters(MADE["sd1"](), AdapterBudgets(HOST, HOST))
    assert (mixed[1] - denoise(components, {name: value[1:] for name, value in CALL.items()})).abs().max() > 0.01
    adapters.bank.clear()
    assert adapters.bank.allocated == 0
    fresh.close()


def test_a_selection_that_was_made_before_others_came_and_went_is_worked_out_again(components, files):
    adapters = budget(components, pages=3)
    uses = [adapters.load(file).at(1.0) for file in files]
    early = adapters.select("unet", [(uses[0],), (uses[1],)])
    with torch.inference_mode(), adapters.applied(early):
        before = denoise(components, CALL)
    for use in uses[2:]:
        adapters.select("unet", [(use,)])
    with torch.inference_mode(), adapters.applied(early):
        after = denoise(components, CALL)
    assert torch.equal(before, after)


def test_every_batch_is_right_in_a_long_history_of_comings_and_goings(components, files, tmp_path):
    """Held against a bank that never forgets."""
    more = [
        diffusers_file(tmp_path / f"wide{seed}.safetensors", components, rank=rank, seed=seed, wanted=unet_convolutions)
        for seed, rank in ((20, 1), (21, 5), (22, 9))
    ]
    generous, other = Adapters(components, AdapterBudgets(HOST, HOST)), MADE["sd1"]()
    size = page_bytes(generous, "attention") * 4 + page_bytes(generous, "convolution") * 7
    tight = Adapters(other, AdapterBudgets(size, HOST))
    chosen = random.Random(5)
    for _ in range(60):
        rows = [
            [(chosen.choice(files + more), chosen.uniform(-1, 1)) for _ in range(chosen.randint(0, 2))]
            for _ in range(2)
        ]
        ours, theirs = (
            [tuple(each.load(file).at(scale) for file, scale in row) for row in rows] for each in (tight, generous)
        )
        try:
            selection = tight.select("unet", ours)
        except MemoryError:
            continue
        assert tight.bank.allocated <= size
        with torch.inference_mode(), tight.applied(selection):
            out = denoise(other, CALL)
        assert torch.allclose(out, run(generous, components, *theirs), atol=1e-5)
    assert tight.bank.epoch > 20


class Short:
    """Takes the place of `Pool.resize`: memory ends after so many calls, until there is enough again."""

    def __init__(self, monkeypatch):
        self._resize, self.left = Pool.resize, None
        monkeypatch.setattr(Pool, "resize", lambda pool, *how: self(pool, *how))

    def __call__(self, pool, *how):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise MemoryError
        self._resize(pool, *how)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("left", [0, 1, 3])
def test_memory_that_ends_while_pools_grow_or_shrink_spoils_nobody(
    left, fixed, components, files, tmp_path, monkeypatch
):
    wide = diffusers_file(tmp_path / "wide.safetensors", components, rank=PAGE, seed=9, wanted=unet_convolutions)
    adapters = Adapters(components, AdapterBudgets(HOST, HOST))
    if fixed:
        adapters.fix("unet", ["mid_block", "down_blocks", "up_blocks"])
    uses = [adapters.load(file).at(1.0) for file in (*files[:4], wide)]
    expected = [run(adapters, components, (use,)) for use in uses]
    adapters.bank.clear()
    assert torch.equal(run(adapters, components, (uses[0],)), expected[0])
    short = Short(monkeypatch)
    for grow in (True, False):
        moves, short.left = adapters.bank.moves, left
        with pytest.raises(MemoryError):
            adapters.select("unet", [tuple(uses)]) if grow else shrink(adapters)
        assert adapters.bank.moves > moves  # who has captured addresses is told, though only some have changed
        short.left = None
        for ranks in (0, 16):
            for use, alone in zip(uses, expected, strict=True):
                with torch.inference_mode(), adapters.applied(adapters.select("unet", [(use,)], ranks=ranks)):
                    drawn = denoise(components, {name: value[:1] for name, value in CALL.items()})
                assert torch.allclose(drawn, alone, atol=1e-5)


def shrink(adapters):
    """Gives back what one of those that are resident has."""
    with torch.inference_mode(False), torch.no_grad():
        adapters.bank._drop(*next(iter(adapters.bank._residents)))
        adapters.bank._compact()


def test_adapters_that_nobody_uses_leave_host_memory_when_others_come(components, files):
    adapters = Adapters(components, AdapterBudgets(HOST, 1))
    first = adapters.load(files[0])
    size = first.nbytes
    assert adapters.load(files[0]) is first
    use = adapters.load(files[1]).at(1.0)
    assert adapters.load(files[2]) is not None
    assert adapters.host_bytes == 3 * size
    del first
    gc.collect()
    assert adapters.host_bytes == 2 * size
    del use
    gc.collect()
    assert adapters.host_bytes == size


def test_a_file_that_was_written_anew_is_another_adapter(components, files):
    adapters = Adapters(components, AdapterBudgets(HOST, HOST))
    old = adapters.load(files[0])
    before = run(adapters, components, (old.at(1.0),))
    data = files[1].read_bytes()
    files[0].write_bytes(data)
    os.utime(files[0], ns=(1, 1))
    new = adapters.load(files[0])
    assert new is not old
    after = run(adapters, components, (new.at(1.0),))
    assert torch.equal(after, run(adapters, components, (adapters.load(files[1]).at(1.0),)))
    assert torch.equal(before, run(adapters, components, (old.at(1.0),)))


def test_a_file_that_changes_while_it_is_read_is_refused_and_read_again_later(components, files, monkeypatch):
    adapters = Adapters(components, AdapterBudgets(HOST, HOST))
    read_adapter = module.read_adapter

    def interrupted(path, names):
        contents = read_adapter(path, names)
        os.utime(path, ns=(1, 1))
        return contents

    monkeypatch.setattr(module, "read_adapter", interrupted)
    with pytest.raises(ModelUnusable, match="was changed while it was read"):
        adapters.load(files[0])
    monkeypatch.undo()
    assert adapters.load(files[0]).components


def test_parts_of_an_adapter_come_to_the_device_when_their_component_is_called(components, tmp_path):
    file = diffusers_file(tmp_path / "x.safetensors", components, wanted=attention_only)
    adapters = Adapters(components, AdapterBudgets(HOST, HOST))
    use = adapters.load(file).at(1.0)
    selection = adapters.select("text_encoder", [(use,), ()])
    assert adapters.bank.resident == {("text_encoder", use.adapter.key)}
    with adapters.applied(selection):
        changed = encode(components, prompts(2))
    assert not torch.equal(changed[0], encode(components, prompts(2))[0])


def test_an_error_in_the_model_leaves_nothing_applied(components, files):
    adapters = Adapters(components, AdapterBudgets(HOST, HOST))
    selection = adapters.select("unet", [(adapters.load(files[0]).at(1.0),), ()])
    with pytest.raises(ZeroDivisionError), adapters.applied(selection):
        raise ZeroDivisionError
    assert all(site.applied is None for site in adapters.sites["unet"].values())


def test_a_call_with_another_number_of_rows_is_refused(components, files):
    adapters = Adapters(components, AdapterBudgets(HOST, HOST))
    selection = adapters.select("unet", [(adapters.load(files[0]).at(1.0),), (), ()])
    with pytest.raises(ValueError, match="2 rows in a batch of 3"), adapters.applied(selection):
        denoise(components, CALL)


def test_closing_makes_the_modules_what_they_were(components):
    kinds = {name: type(module) for name, module in components["unet"].named_modules()}
    adapters = Adapters(components, AdapterBudgets(HOST, HOST))
    linear = components["unet"].mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    assert isinstance(linear, nn.Linear)
    assert type(linear) is not nn.Linear
    adapters.close()
    assert kinds == {name: type(module) for name, module in components["unet"].named_modules()}
    assert type(linear) is nn.Linear


def test_a_scale_that_is_no_number_is_refused(components, files):
    adapter = Adapters(components, AdapterBudgets(HOST, HOST)).load(files[0])
    with pytest.raises(ValueError, match="nan"):
        adapter.at(float("nan"))
