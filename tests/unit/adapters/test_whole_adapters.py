"""Adapters that are no low-rank sums (LoHa, LoKr, whole differences): each row equals the model with the change in its weights."""

import pytest
import torch
from peft.tuners.loha.layer import make_weight, make_weight_cp
from peft.tuners.lokr.layer import make_kron
from peft.tuners.lokr.layer import make_weight_cp as make_lokr_cp
from tiny_pipelines import MADE, denoise, encode, inputs, prompts, row_of
from torch import nn
from written_files import diffusers_file, kohya_file, kohya_name, modules, write

from collodion.worker.adapters.adapters import AdapterBudgets, Adapters

PLENTY = AdapterBudgets(1 << 30, 1 << 30)
RANK, ALPHA = 4, 2.0
SCALE = torch.tensor(ALPHA / RANK)


def noise(*shape, of=0.5):
    return torch.randn(*shape) * of


def loha(weight):
    """Its tensors, and the change that they stand for by peft's own functions."""
    out, flat = weight.shape[0], weight[0].numel()
    parts = {"w1_a": noise(out, RANK), "w1_b": noise(RANK, flat), "w2_a": noise(out, RANK), "w2_b": noise(RANK, flat)}
    change = make_weight(*parts.values(), SCALE).view(weight.shape)
    return {f"hada_{name}": part for name, part in parts.items()}, change


def loha_with_cores(weight):
    if weight.ndim == 2:
        return loha(weight)
    out, width, *kernel = weight.shape
    core = (RANK, RANK, *kernel)
    parts = {
        "t1": noise(*core), "w1_a": noise(RANK, out), "w1_b": noise(RANK, width),
        "t2": noise(*core), "w2_a": noise(RANK, out), "w2_b": noise(RANK, width),
    }  # fmt: skip
    return {f"hada_{name}": part for name, part in parts.items()}, make_weight_cp(*parts.values(), SCALE)


def lokr(weight):
    out, width, *kernel = weight.shape
    w1, a, b = noise(4, 2), noise(out // 4, RANK), noise(RANK, width // 2 * torch.Size(kernel).numel())
    change = make_kron(w1, (a @ b).view(out // 4, width // 2, *kernel), SCALE)
    return {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b}, change


def lokr_of_products(weight):
    out, width, *kernel = weight.shape
    if not kernel:
        a1, b1, a2, b2 = noise(4, RANK), noise(RANK, 2), noise(out // 4, RANK), noise(RANK, width // 2)
        names = ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b")
        return dict(zip(names, (a1, b1, a2, b2), strict=True)), make_kron(a1 @ b1, a2 @ b2, SCALE)
    w1, core = noise(4, 2), noise(RANK, RANK, *kernel)
    a, b = noise(RANK, out // 4), noise(RANK, width // 2)
    change = make_kron(w1, make_lokr_cp(core, a, b), SCALE)
    return {"lokr_w1": w1, "lokr_t2": core, "lokr_w2_a": a, "lokr_w2_b": b}, change


def lokr_of_wholes(weight):
    """LyCORIS does not scale it."""
    out, width, *kernel = weight.shape
    w1, w2 = noise(2, 4, of=0.2), noise(out // 2, width // 4, *kernel, of=0.2)
    return {"lokr_w1": w1, "lokr_w2": w2}, make_kron(w1, w2, 1.0)


def difference(weight):
    change = noise(*weight.shape, of=0.1)
    return {"diff": change}, change


WAYS = {
    "loha": loha,
    "loha with cores": loha_with_cores,
    "lokr": lokr,
    "lokr of products": lokr_of_products,
    "lokr of wholes": lokr_of_wholes,
    "difference": difference,
}


def wanted(component, path, module):
    """Attention, and the convolutions of one block, with their biases."""
    inside = "attn" in path and isinstance(module, nn.Linear)
    return component == "unet" and (inside or path.startswith("down_blocks.1.resnets.0.conv"))


def written(path, name, way, seed=0):
    """A file, and its changes by the module's path."""
    torch.manual_seed(seed)
    tensors, changes = {}, {}
    for component, module_path, module in modules(MADE[name](), wanted):
        parts, change = way(module.weight.detach())
        base = kohya_name(component, module_path)
        tensors |= {f"{base}.{part}": tensor for part, tensor in parts.items()}
        if way is not difference:
            tensors[f"{base}.alpha"] = torch.tensor(ALPHA)
        bias = None
        if way is difference and module.bias is not None:
            bias = tensors[f"{base}.diff_b"] = noise(len(module.bias), of=0.3)
        changes[module_path] = (change, bias)
    return write(path, tensors), changes


def changed(name, *pairs):
    """The components with these (changes, scale) pairs in their weights."""
    components = MADE[name]()
    with torch.no_grad():
        for changes, scale in pairs:
            for path, (change, bias) in changes.items():
                module = components["unet"].get_submodule(path)
                module.weight += scale * change
                if bias is not None:
                    module.bias += scale * bias
    return components


@torch.inference_mode()
def run(adapters, components, rows, call, size=0):
    with adapters.applied(adapters.select("unet", rows, size)):
        return denoise(components, call)


@pytest.mark.parametrize("way", WAYS)
def test_rows_that_have_it_equal_the_model_with_the_change_in_its_weights(way, tmp_path):
    components = MADE["sd1"]()
    adapters = Adapters(components, PLENTY)
    file, changes = written(tmp_path / "x.safetensors", "sd1", WAYS[way])
    adapter = adapters.load(file)
    assert adapter.kind == "whole"
    call = inputs("sd1", 3)
    for scales in ([0.6, 0.6, 0.6], [0.6, 0.0, -0.3]):
        ours = run(adapters, components, [(adapter.at(scale),) for scale in scales], call)
        for row, scale in enumerate(scales):
            theirs = denoise(changed("sd1", (changes, scale)), row_of(call, row))
            assert (ours[row : row + 1] - theirs).abs().max() < 1e-4
    assert (ours[0] - denoise(components, call)[0]).abs().max() > 0.01


def test_whole_and_low_rank_adapters_share_a_batch_and_a_row(tmp_path):
    components = MADE["sdxl"]()
    adapters = Adapters(components, PLENTY)
    one, one_changes = written(tmp_path / "one.safetensors", "sdxl", loha, seed=1)
    two, two_changes = written(tmp_path / "two.safetensors", "sdxl", lokr, seed=2)
    low = kohya_file(tmp_path / "low.safetensors", {"unet": components["unet"]}, alpha=None, wanted=wanted, seed=3)
    low_changes = {
        site.path: (change.delta.matrix().view(site.shape), None)
        for site, change in _read(low, adapters).changes.items()
    }
    known = {one: one_changes, two: two_changes, low: low_changes}
    parts = [[], [(one, 0.5)], [(two, 0.4)], [(low, 0.8)], [(one, 0.3), (two, -0.2), (low, 0.5)], [(one, 0.5)]]
    rows = [tuple(adapters.load(file).at(scale) for file, scale in row) for row in parts]
    call = inputs("sdxl", 8)
    ours = run(adapters, components, rows, call, size=8)
    for row, pairs in enumerate(parts):
        theirs = denoise(changed("sdxl", *((known[file], scale) for file, scale in pairs)), row_of(call, row))
        assert (ours[row : row + 1] - theirs).abs().max() < 1e-4


def _read(path, adapters):
    from collodion.worker.adapters.reading import read_adapter

    return read_adapter(path, adapters._names)


def test_a_text_encoder_has_whole_adapters_by_the_prompt(tmp_path):
    components = MADE["sd1"]()
    path = "encoder.layers.0.mlp.fc1"
    module = components["text_encoder"].get_submodule(path)
    change = noise(*module.weight.shape)
    file = write(tmp_path / "x.safetensors", {f"lora_te_text_model_{path.replace('.', '_')}.diff": change})
    adapters = Adapters(components, PLENTY)
    use = adapters.load(file).at(0.5)
    ids = prompts(3)
    with adapters.applied(adapters.select("text_encoder", [(), (use,), ()])):
        ours = encode(components, ids)
    other = MADE["sd1"]()
    with torch.no_grad():
        other["text_encoder"].get_submodule(path).weight += 0.5 * change
    plain = encode(components, ids)
    assert (ours[1:2] - encode(other, ids[1:2])).abs().max() < 1e-4
    assert (ours[1] - plain[1]).abs().max() > 0.01
    assert (ours[::2] - plain[::2]).abs().max() < 1e-5


def test_a_convolution_in_three_pieces_is_one(tmp_path):
    """LoCon with a core (`lora_mid`): up · mid · down."""
    components = MADE["sd1"]()
    path = "down_blocks.1.resnets.0.conv1"
    weight = components["unet"].get_submodule(path).weight
    down, mid, up = noise(RANK, weight.shape[1], 1, 1), noise(RANK, RANK, 3, 3), noise(weight.shape[0], RANK, 1, 1)
    base = kohya_name("unet", path)
    tensors = {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up, "alpha": torch.tensor(ALPHA)}
    file = write(tmp_path / "x.safetensors", {f"{base}.{part}": tensor for part, tensor in tensors.items()})
    adapters = Adapters(components, PLENTY)
    adapter = adapters.load(file)
    assert adapter.kind == "low_rank"
    change = torch.einsum("om,mnhw,ni->oihw", up.flatten(1), mid, down.flatten(1)) * SCALE
    call = inputs("sd1", 2)
    ours = run(adapters, components, [(adapter.at(1.0),), ()], call)
    theirs = denoise(changed("sd1", ({path: (change, None)}, 1.0)), row_of(call, 0))
    assert (ours[:1] - theirs).abs().max() < 1e-4


def test_a_bias_of_pefts_counts_as_its_product_does(tmp_path):
    components = MADE["sd1"]()
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    down, up, bias = noise(RANK, 32), noise(32, RANK), noise(32)
    tensors = {"lora_A.weight": down, "lora_B.weight": up, "lora_B.bias": bias, "alpha": torch.tensor(ALPHA)}
    file = write(tmp_path / "x.safetensors", {f"unet.{path}.{part}": tensor for part, tensor in tensors.items()})
    adapters = Adapters(components, PLENTY)
    call = inputs("sd1", 1)
    ours = run(adapters, components, [(adapters.load(file).at(0.7),)], call)
    theirs = changed("sd1", ({path: (SCALE * up @ down, SCALE * bias)}, 0.7))
    assert (ours - denoise(theirs, call)).abs().max() < 1e-4


def test_factors_take_the_memory_of_factors(tmp_path):
    components = MADE["sd1"]()
    adapters = Adapters(components, PLENTY)
    file, _ = written(tmp_path / "x.safetensors", "sd1", lokr)
    use = adapters.load(file).at(1.0)
    adapters.select("unet", [(use,)])
    assert adapters.bank.allocated == use.adapter.nbytes < 4 * file.stat().st_size
    low = adapters.load(diffusers_file(tmp_path / "y.safetensors", components, wanted=wanted)).at(1.0)
    adapters.select("unet", [(use, low)])
    assert adapters.bank.allocated > use.adapter.nbytes
