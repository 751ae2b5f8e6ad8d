"""Weights of 8 bits: near those that they replace, in the layers that are meant, and right for whoever reads them."""

import copy
import gc
import importlib.util
import logging
import subprocess
import sys
import weakref
from pathlib import Path

import diffusers
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))

from written_files import diffusers_file, kohya_name, write

from collodion.wire.jobs import Parameters
from collodion.worker.adapters.adapters import AdapterBudgets, Adapters
from collodion.worker.config import WorkerConfig
from collodion.worker.models import load_models
from collodion.worker.optimize import quantization, unasked
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.quantization import check, quantizable, quantize, quantize_layers
from collodion.worker.optimize.wishes import Quantization
from collodion.worker.registry.sharing import SharedWeights
from collodion.worker.weights import plain, stored_bytes

pytestmark = pytest.mark.skipif(not unasked.installed("torchao"), reason="needs collodion[quantization]")

CPU = torch.device("cpu")
INT8, FP8 = Quantization.INT8, Quantization.FP8
PLENTY = AdapterBudgets(1 << 30, 1 << 30)


def unet(dtype=torch.float32, width=64):
    torch.manual_seed(0)
    made = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(width, width),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        cross_attention_dim=width,
    )
    return made.eval().requires_grad_(requires_grad=False).to(dtype)


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    """diffusers warns when it casts a model that keeps nothing in float32."""
    diffusers.utils.logging.set_verbosity_error()


def call(model, rows=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    sample, states = (torch.randn(rows, *shape, generator=generator).to(dtype) for shape in ((4, 8, 8), (5, 64)))
    with torch.inference_mode():
        return model(sample, torch.linspace(1, 900, rows), states, return_dict=False)[0]


def distance(ours, right):
    return float((ours.float() - right.float()).norm() / right.float().norm())


@pytest.mark.parametrize(
    ("kind", "dtype", "bound"),
    [
        (INT8, torch.float32, 0.005),
        (INT8, torch.bfloat16, 0.02),
        (INT8, torch.float16, 0.005),
        (FP8, torch.float32, 0.02),
        (FP8, torch.bfloat16, 0.03),
    ],
)
def test_a_quantised_model_says_nearly_what_it_said_before(kind, dtype, bound):
    exact, model = unet(), unet(dtype)
    assert quantize_layers(quantizable(model), kind) == 40
    error = distance(call(model, dtype=dtype), call(exact))
    assert 1e-4 < error < bound


def test_what_was_done_is_said_in_numbers():
    model = unet()
    before = sum(parameter.nbytes for parameter in model.parameters())
    said = quantize(model, INT8, CPU)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    quantised = [layer for layer in layers if type(layer.weight) is not nn.Parameter]
    now = sum(map(stored_bytes, model.parameters()))
    saved = sum(
        layer.weight.numel() * 3 - len(layer.weight) * 5 for layer in quantised
    )  # a scale and a zero for each row
    assert now == before - saved
    megabytes = [f"{size / 2**20:,.0f}" for size in (before, now)]
    assert (said.name, said.value) == ("quantize", "int8")
    assert (
        said.detail
        == f"{len(quantised)} of {len(layers)} linear layers of the denoiser, {megabytes[0]} to {megabytes[1]} MiB"
    )


def test_a_quantised_weight_is_a_parameter_like_the_one_that_it_replaces():
    model = unet(torch.bfloat16)
    with torch.inference_mode():  # whoever calls it so does not get weights that can be used in nothing else
        quantize(model, INT8, CPU)
    weight = model.mid_block.attentions[0].transformer_blocks[0].ff.net[2].weight
    assert isinstance(weight, nn.Parameter)
    assert (weight.shape, weight.dtype, weight.device) == (torch.Size([64, 256]), torch.bfloat16, CPU)
    assert weight.is_floating_point()
    assert not weight.requires_grad
    assert not any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers()))
    assert weight.nbytes > 1.8 * stored_bytes(weight)
    assert plain(weight).dtype is torch.bfloat16
    assert plain(model.conv_in.weight) is model.conv_in.weight
    call(copy.deepcopy(model).to(memory_format=torch.channels_last), dtype=torch.bfloat16)


REAL = {
    "UNet2DConditionModel": {"cross_attention_dim": 768},
    "SD3Transformer2DModel": {"num_layers": 2, "dual_attention_layers": (0,), "qk_norm": "rms_norm"},
    "FluxTransformer2DModel": {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True},
    "QwenImageTransformer2DModel": {"num_layers": 1},
    "ZImageTransformer2DModel": {"n_layers": 1, "n_refiner_layers": 1},
}
LEFT = (
    "time",
    "t_embedder",
    "cap_embedder",
    "x_embedder",
    "img_in",
    "txt_in",
    "context_embedder",
    "proj_out",
    "norm_out",
)


@pytest.mark.parametrize("name", REAL)
def test_the_blocks_of_every_family_are_quantised_and_not_its_two_ends(name):
    with torch.device("meta"):
        model = getattr(diffusers, name)(**REAL[name])
    chosen = quantizable(model)
    assert any(".to_q" in path or "attention" in path for path in chosen)
    inside = {path for path, module in model.named_modules() if isinstance(module, nn.Linear) and "blocks." in path}
    assert chosen.keys() >= {path for path in inside if "transformer_blocks." in path}
    assert not [path for path in chosen if path.startswith(LEFT) or ".time_emb_proj" in path]
    sizes = {path: module.weight.numel() for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert any(path.startswith(LEFT) for path in sizes)
    assert sum(map(sizes.__getitem__, chosen)) > 0.5 * sum(sizes.values())


def test_float16_has_scales_for_groups_because_the_product_comes_before_the_rows_scale():
    layer = nn.Linear(1280, 64, bias=False).half().requires_grad_(requires_grad=False)
    layer.weight.fill_(0.02)
    inputs = torch.full((1, 1280), 20.0).half()
    by_row = copy.deepcopy(layer)
    api = unasked.import_hidden("torchao.quantization")
    api.quantize_(by_row, api.Int8WeightOnlyConfig(set_inductor_config=False))
    assert by_row(inputs).isinf().all()
    quantize_layers({"": layer}, INT8)
    assert torch.allclose(layer(inputs).float(), torch.tensor(512.0), rtol=0.01)


def test_what_does_not_divide_into_groups_stays_float16():
    layers = {str(width): nn.Linear(width, 64).half().requires_grad_(requires_grad=False) for width in (128, 100)}
    assert quantize_layers(layers, INT8) == 1
    assert type(layers["100"].weight) is nn.Parameter


def test_nothing_that_is_worth_it_is_a_refusal_and_changes_nothing():
    model = unet(width=32)
    weights = dict(model.named_parameters())
    with pytest.raises(Unsuitable, match=r"none of the \d+ linear layers of this UNet2DConditionModel"):
        quantize(model, INT8, CPU)
    assert all(weights[name] is parameter for name, parameter in model.named_parameters())


def test_what_cannot_work_is_refused_before_anything_is_loaded(monkeypatch):
    cuda = torch.device("cuda", 0)
    check(INT8, CPU)
    check(Quantization.OFF, CPU)
    with pytest.raises(Unsuitable, match="on a cpu int8 takes as much memory"):
        check(FP8, CPU)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (8, 0))
    check(INT8, cuda)
    with pytest.raises(Unsuitable, match=r"8\.9 or more .* A100 has 8\.0"):
        check(FP8, cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (8, 9))
    check(FP8, cuda)
    monkeypatch.setattr(unasked, "installed", lambda name: False)
    with pytest.raises(Unsuitable, match=r"pip install 'collodion\[quantization\]'"):
        check(INT8, CPU)
    with pytest.raises(Unsuitable, match="not installed"):
        quantize(unet(), INT8, CPU)


def test_a_torchao_that_cannot_be_imported_is_a_refusal(monkeypatch):
    def fail(name):
        raise ImportError("torchao cannot be imported: RuntimeError: it was built for another torch")

    monkeypatch.setattr(quantization.unasked, "import_hidden", fail)
    with pytest.raises(Unsuitable, match="another torch"):
        quantize(unet(), INT8, CPU)


def loha_file(path, model):
    torch.manual_seed(5)
    tensors = {}
    for site, module in quantizable(model).items():
        out, width = module.weight.shape
        shapes = {"w1_a": (out, 4), "w1_b": (4, width), "w2_a": (out, 4), "w2_b": (4, width)}
        tensors |= {
            f"{kohya_name('unet', site)}.hada_{part}": torch.randn(shape) * 0.2 for part, shape in shapes.items()
        }
    return write(path, tensors)


@pytest.mark.parametrize("kind", [INT8, FP8])
def test_rows_with_different_adapters_are_those_of_a_model_with_the_same_weights_unquantised(kind, tmp_path):
    model, reference = unet(), unet()
    quantize_layers(quantizable(model), kind)
    for path, layer in quantizable(reference).items():
        layer.weight.copy_(plain(model.get_submodule(path).weight))
    files = [
        diffusers_file(tmp_path / f"{rank}.safetensors", {"unet": reference}, rank=rank, seed=rank) for rank in (2, 5)
    ]
    files.append(loha_file(tmp_path / "loha.safetensors", reference))
    outputs = []
    for each in (model, reference):
        adapters = Adapters({"unet": each}, PLENTY)
        assert {site.dtype for site in adapters.sites["unet"].values()} == {torch.float32}
        oil, ink, whole = (adapters.load(file) for file in files)
        rows = [(), (oil.at(0.8),), (ink.at(-0.5),), (oil.at(0.3), ink.at(1.0)), (whole.at(0.7),), ()]
        with adapters.applied(adapters.select("unet", rows)):
            outputs.append(call(each, len(rows)))
    for row, (ours, right) in enumerate(zip(*outputs, strict=True)):
        assert distance(ours, right) < 1e-4, row
    changed = [distance(*pair) for pair in zip(outputs[0], call(model, 6), strict=True)]
    assert [change > 0.01 for change in changed] == [False, True, True, True, True, False]


def test_a_model_that_shares_the_weights_keeps_them():
    shared = SharedWeights()
    first = unet()
    expected = call(first)
    shared.keep("unet", first)
    second = shared.find("unet")
    quantize(first, INT8, CPU)
    assert torch.equal(call(second), expected)
    third = shared.find("unet")
    assert all(third.get_parameter(name) is parameter for name, parameter in second.named_parameters())
    del second, third
    gc.collect()
    assert shared.find("unet") is None  # who comes now reads the file: a quantised model has no others to share


def test_a_closed_model_frees_its_weights_at_once():
    model = unet()
    quantize(model, INT8, CPU)
    layers = quantizable(model).values()
    assert not any("extra_repr" in vars(layer) for layer in layers)  # torchao's, which holds the layer that holds it
    held = [weakref.ref(layer.weight.qdata) for layer in layers]
    gc.collect()
    gc.disable()
    try:
        for module in model.modules():
            module._parameters.clear()
        assert not any(each() is not None for each in held)
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_quantised_block_is_compiled_in_one_piece_and_once():
    block = unet().mid_block.attentions[0].transformer_blocks[0]
    quantize_layers(quantizable(nn.ModuleList([block])), INT8)
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, backend=counter, fullgraph=True)
    states = torch.randn(2, 5, 64)
    with torch.inference_mode():
        for seed in range(3):
            inputs = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(seed))
            assert torch.allclose(
                compiled(inputs, encoder_hidden_states=states), block(inputs, encoder_hidden_states=states), atol=1e-5
            )
    assert counter.frame_count == 1
    torch.compiler.reset()


def test_the_embedded_model_draws_its_pictures_with_weights_of_8_bits():
    folder = Path(__file__).parents[3] / "worker" / "collodion" / "worker" / "shapes"
    drawn = []
    for optimize in ((), ("quantize=int8",)):
        config = WorkerConfig(models=(f"shapes={folder}",), device="cpu", threads=1, optimize=optimize)
        model = load_models(config)[1]["shapes"]
        jobs = [Parameters("shapes", "a red circle", "", 64, 64, 6, "dpmpp_2m", scale, 7, 1) for scale in (5.0, 1.0)]
        plans = [model.prepare(job) for job in jobs]
        states = [
            model.begin(plan, texts, 7) for plan, texts in zip(plans, model.encode(plans).conditioning, strict=True)
        ]
        while not states[0].trajectory.finished:
            model.step(states)
        drawn.append(torch.stack([state.trajectory.latent for state in states]))
        assert all(picture is not None for picture in model.decode(states).pictures())
    (said,) = [one for one in model.optimizations if one.name == "quantize"]
    assert (said.value, said.detail) == ("int8", "70 of 80 linear layers of the denoiser, 16 to 12 MiB")
    assert 1e-4 < distance(drawn[1], drawn[0]) < 0.03


def test_a_hidden_package_is_not_there_until_it_is_asked_for(tmp_path, monkeypatch, capfd):
    (tmp_path / "talkative.py").write_text(
        "import logging; logging.getLogger('talkative').warning('no kernels'); asked = 1"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(unasked, "_HIDDEN", ("talkative",))
    monkeypatch.setattr(unasked, "_TALKATIVE", ("talkative",))
    unasked.hide()
    try:
        assert importlib.util.find_spec("talkative") is None
        assert unasked.installed("talkative")
        assert not unasked.installed("talkative_too")
        assert unasked.import_hidden("talkative").asked == 1
        unasked.hide()
        assert sys.modules["talkative"].asked == 1
    finally:
        sys.modules.pop("talkative", None)
    assert capfd.readouterr().err == ""
    assert logging.getLogger("talkative").level == logging.NOTSET


def test_what_makes_models_imports_no_torchao_and_says_nothing_of_it():
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, collodion.worker.families, diffusers.quantizers, transformers.quantizers\n"
            "assert not sys.modules['torchao'], sys.modules['torchao']",
        ],
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert told.returncode == 0, told.stderr
    assert "torchao" not in told.stderr
