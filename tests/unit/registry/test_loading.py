import gc
import json
import shutil
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from collodion.worker.registry import ModelUnusable, Part, modules, read_model, scan
from collodion.worker.registry.loading import load_parts
from collodion.worker.registry.reading import finite
from collodion.worker.registry.sharing import SharedWeights
from tests.unit.registry.conftest import Tiny, make_tiny
from tests.unit.registry.files_by_hand import shapes_in
from tests.unit.registry.test_scanning import damaged

CPU = torch.device("cpu")
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A copy of the embedded model, to be spoiled."""
    return shapes_in(tmp_path / "shapes")


def load(folder: Path, dtype: torch.dtype = torch.float32, shared: SharedWeights | None = None) -> dict[str, Any]:
    return load_parts(read_model(folder, "x"), dtype, CPU, shared)


def changed(file: Path, name: str, value: float, dtype: torch.dtype | None = None) -> None:
    """One number of one tensor."""
    tensors = load_file(file)
    tensors = {key: each.to(dtype or each.dtype) for key, each in tensors.items()}
    tensors[name].view(-1)[3] = value
    save_file(tensors, file)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(shapes: Path, value: float) -> None:
    changed(shapes / UNET, "conv_in.weight", value)
    with pytest.raises(
        ModelUnusable, match=r"diffusion_pytorch_model.safetensors is damaged: conv_in.weight holds NaN or infinity"
    ):
        load(shapes)


def test_weights_beyond_half_precision_are_refused_in_half_precision(shapes: Path) -> None:
    changed(shapes / UNET, "conv_in.weight", 1e6, torch.float32)
    with pytest.raises(
        ModelUnusable, match=r"conv_in.weight is beyond what float16 can say; run it in bfloat16 or float32"
    ):
        load(shapes, torch.float16)
    load(shapes, torch.bfloat16)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]
)
def test_finite_is_exact(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    for good in (0.0, -0.0, limits.max, limits.min, limits.tiny, -limits.tiny):
        assert finite(torch.tensor([good, 1.0, -1.0], dtype=torch.float64).to(dtype))
    bad = [float("nan")] if dtype == torch.float8_e4m3fn else [float("nan"), float("inf"), float("-inf")]
    for value in bad:
        for sign in (1, -1):
            tensor = torch.tensor([[1.0, value], [-1.0, 0.0]], dtype=torch.float32).to(dtype)
            assert not finite(tensor if sign > 0 else -tensor.float().to(dtype) if dtype.itemsize > 1 else tensor)
    assert finite(torch.empty(0, 3, dtype=dtype))
    assert finite(torch.tensor(1.0).to(dtype))


def test_a_file_that_shrinks_between_scan_and_load_is_refused(shapes: Path) -> None:
    source = read_model(shapes, "x")
    raw = (shapes / UNET).read_bytes()
    (shapes / UNET).write_bytes(raw[:-1000])
    with pytest.raises(ModelUnusable, match="is not complete"):
        load_parts(source, torch.float32, CPU)


def test_a_file_that_changed_between_scan_and_load_is_refused(shapes: Path) -> None:
    source = read_model(shapes, "x")
    changed(shapes / UNET, "conv_in.weight", 0.5)
    with pytest.raises(ModelUnusable, match="changed since it was looked at"):
        load_parts(source, torch.float32, CPU)


WRONG_CONFIGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a billion layers": ("unet/config.json", {"layers_per_block": 10**9}, "layers_per_block = 1000000000"),
    "as wide as the sky": (
        "unet/config.json",
        {"block_out_channels": [10**12, 4]},
        "block_out_channels = 1000000000000",
    ),
    "another width": ("unet/config.json", {"cross_attention_dim": 99}, r"has shape \[\d+, 128\] where \[\d+, 99\]"),
    "more levels": ("vae/config.json", {"layers_per_block": 2}, "its vae lacks decoder.up_blocks.0.resnets.2"),
    "words for numbers": ("unet/config.json", {"block_out_channels": "many"}, "its unet cannot be built"),
    "an unknown block": ("unet/config.json", {"down_block_types": ["__import__", "x"]}, "its unet cannot be built"),
    "deep layers of texts": (
        "text_encoder/config.json",
        {"num_hidden_layers": 3},
        "its text_encoder lacks encoder.layers.2",
    ),
    "narrow texts": ("text_encoder/config.json", {"intermediate_size": 3}, r"its text_encoder: .* has shape \[384"),
    "no such class": (
        "model_index.json",
        {"unet": ["diffusers", "NoSuchModel"]},
        "which this version's diffusers does not have",
    ),
    "a class of no model": ("model_index.json", {"unet": ["diffusers", "DiffusionPipeline"]}, "does not have"),
    "a scheduler of another kind": (
        "model_index.json",
        {"scheduler": ["transformers", "CLIPTextModel"]},
        "lacks its weights",
    ),
}


@pytest.mark.parametrize(("file", "said", "why"), WRONG_CONFIGS.values(), ids=WRONG_CONFIGS)
def test_a_configuration_that_does_not_fit_is_refused(shapes: Path, file: str, said: dict[str, Any], why: str) -> None:
    damaged(shapes, file, lambda config: config.update(said))
    with pytest.raises(ModelUnusable, match=why) as refused:
        load(shapes)
    assert str(shapes) in refused.value.reason


def test_a_broken_tokenizer_is_refused(shapes: Path) -> None:
    (shapes / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelUnusable, match="its tokenizer cannot be made"):
        load(shapes)


def test_loading_changes_nothing_of_the_process(shapes: Path) -> None:
    """Beside it the device thread makes tensors and modules of its own."""
    seen: list[tuple[torch.dtype, bool]] = []
    ended = threading.Event()

    def device_thread() -> None:
        while not ended.is_set():
            linear = nn.Linear(2, 2)
            seen.append((torch.zeros(1).dtype, linear.weight.is_meta))

    thread = threading.Thread(target=device_thread)
    thread.start()
    load(shapes, torch.float16)
    ended.set()
    thread.join()
    assert set(seen) == {(torch.float32, False)}


def test_progress_grows_to_one(shapes: Path) -> None:
    said: list[float] = []
    load_parts(read_model(shapes, "x"), torch.float32, CPU, progress=said.append)
    assert said == sorted(said)
    assert len(said) > 10
    assert said[-1] == 1.0


# ---------------------------------------------------------------------- shared weights


def test_models_that_name_one_file_hold_its_weights_once(tmp_path: Path, shapes: Path) -> None:
    """The second folder has a UNet of its own and links for the rest."""
    other = tmp_path / "other"
    other.mkdir()
    for part in ("model_index.json", "scheduler", "tokenizer", "text_encoder", "vae"):
        (other / part).symlink_to(shapes / part)
    shutil.copytree(shapes / "unet", other / "unet")
    shared = SharedWeights()

    one, two = load(shapes, shared=shared), load(other, shared=shared)

    for part, same in (("vae", True), ("text_encoder", True), ("unet", False)):
        assert one[part] is not two[part]
        pairs = list(zip(one[part].parameters(), two[part].parameters(), strict=True))
        assert all((first is second) == same for first, second in pairs)
        assert all(torch.equal(first, second) for first, second in pairs)


def test_what_is_changed_in_one_model_is_not_changed_in_the_other(shapes: Path) -> None:
    shared = SharedWeights()
    one = load(shapes, shared=shared)["unet"]
    one.conv_in.register_forward_hook(lambda *_: None)
    replaced, one.conv_out = one.conv_out, nn.Identity()
    two = load(shapes, shared=shared)["unet"]
    assert not two.conv_in._forward_hooks
    assert isinstance(two.conv_out, nn.Conv2d)
    assert two.conv_in.weight is one.conv_in.weight
    assert two.conv_out.weight is replaced.weight


def test_weights_go_when_their_last_model_goes(shapes: Path) -> None:
    shared = SharedWeights()
    one, two = load(shapes, shared=shared), load(shapes, shared=shared)
    weight = weakref.ref(one["unet"].conv_in.weight)
    del one
    gc.collect()
    assert weight() is two["unet"].conv_in.weight
    del two
    gc.collect()
    assert weight() is None
    assert load(shapes, shared=shared)["unet"].conv_in.weight.isfinite().all()


def test_another_precision_shares_nothing(shapes: Path) -> None:
    shared = SharedWeights()
    half, full = load(shapes, torch.float16, shared), load(shapes, torch.float32, shared)
    assert half["unet"].conv_in.weight.dtype == torch.float16
    assert full["unet"].conv_in.weight.dtype == torch.float32


def test_a_vae_of_its_own_is_used_and_shared(tmp_path: Path, tiny: Callable[[str], Tiny]) -> None:
    """In each of the three ways in which a VAE comes."""
    other = make_tiny("sd1")
    with torch.no_grad():
        other.pipeline.vae.decoder.conv_out.bias.fill_(7.0)
    other.pipeline.vae.save_pretrained(tmp_path / "folder-vae")
    plain = {
        name.removeprefix("first_stage_model."): each.contiguous()
        for name, each in other.tensors.items()
        if "first_stage" in name
    }
    save_file(plain, tmp_path / "ldm-vae.safetensors")
    save_file(other.pipeline.vae.state_dict(), tmp_path / "diffusers-vae.safetensors")
    shared = SharedWeights()
    file = tiny("sd1").save(tmp_path / "a-folder-vae.safetensors")
    for name in ("b-folder-vae", "a-ldm-vae", "a-diffusers-vae"):
        (tmp_path / f"{name}.safetensors").hardlink_to(file)
    for one in tmp_path.glob("?-*.safetensors"):
        one.with_suffix(".collodion.json").write_text(json.dumps({"vae": one.stem[2:]}))

    found = scan(tmp_path)

    assert not found.refusals
    loaded = {name: load_parts(one, torch.float32, CPU, shared)["vae"] for name, one in found.models.items()}
    assert all(set(vae.decoder.conv_out.bias.tolist()) == {7.0} for vae in loaded.values())
    assert loaded["a-folder-vae"].decoder.conv_out.bias is loaded["b-folder-vae"].decoder.conv_out.bias


# ---------------------------------------------------------------------- other parts than Stable Diffusion's


def _text_encoders() -> dict[str, tuple[str, Any]]:
    t5 = transformers.T5Config(
        vocab_size=50, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    qwen = transformers.Qwen3Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    clip = transformers.CLIPTextConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=8,
    )
    return {
        "T5EncoderModel": ("text_encoder", t5),
        "Qwen3Model": ("text_encoder", qwen),
        "CLIPTextModelWithProjection": ("text_encoder", clip),
    }


@pytest.mark.parametrize("class_name", _text_encoders())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_text_encoders_load_as_by_transformers(tmp_path: Path, class_name: str, dtype: torch.dtype) -> None:
    """Tied weights, old names, buffers, and what stays in float32."""
    from collodion.worker.registry.folders import weights_in
    from collodion.worker.registry.reading import Wish, read_tensors
    from collodion.worker.registry.sources import WeightFile

    name, config = _text_encoders()[class_name]
    kind = getattr(transformers, class_name)
    torch.manual_seed(1)
    kind(config).save_pretrained(tmp_path)
    theirs = kind.from_pretrained(tmp_path, dtype=dtype)

    part = Part(name, "transformers", class_name, tmp_path)
    ours = modules.build(part, json.loads((tmp_path / "config.json").read_text()), dtype)
    files = [WeightFile.at(header.path) for header in weights_in(tmp_path, "transformers")]
    kept = modules.kept_in_float32(kind, dtype)
    modules.fill(part, ours, read_tensors(files, Wish(dtype, kept=kept), lambda _: None), dtype)

    expected = theirs.state_dict()
    assert {key: each.dtype for key, each in ours.state_dict().items()} == {
        key: each.dtype for key, each in expected.items()
    }
    assert all(torch.equal(each, expected[key]) for key, each in ours.state_dict().items())
    if dtype == torch.float32:
        ids = torch.tensor([[1, 2, 3, 49]])
        with torch.inference_mode():
            assert torch.equal(ours(input_ids=ids)[0], theirs(input_ids=ids)[0])


def test_a_sharded_part_is_read_from_all_its_shards(shapes: Path) -> None:
    tensors = load_file(shapes / UNET)
    names = sorted(tensors)
    half = len(names) // 2
    placed = {}
    for number, some in enumerate((names[:half], names[half:])):
        file = f"diffusion_pytorch_model-0000{number + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in some}, shapes / "unet" / file)
        placed |= dict.fromkeys(some, file)
    (shapes / UNET).unlink()
    (shapes / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))

    source = read_model(shapes, "x")

    assert len(source.part("unet").files) == 2  # type: ignore[union-attr]
    unet = load_parts(source, torch.float16, CPU)["unet"]
    assert all(np.array_equal(each.numpy(), tensors[name].numpy()) for name, each in unet.state_dict().items())


def test_a_half_precision_variant_is_taken_where_there_is_no_other(shapes: Path) -> None:
    (shapes / UNET).rename(shapes / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert load(shapes)["unet"].conv_in.weight.dtype == torch.float32


def test_old_attention_names_of_a_vae_are_understood(tmp_path: Path) -> None:
    """As VAEs were saved before diffusers 0.15."""
    vae = make_tiny("sd1").pipeline.vae
    vae.save_pretrained(tmp_path)
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    for new, former in old.items():
        tensors = {name.replace(new, former): each for name, each in tensors.items()}
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    from collodion.worker.registry.folders import read_vae_folder
    from collodion.worker.registry.reading import Wish, read_tensors

    part = read_vae_folder(tmp_path, "x").part
    config = json.loads((tmp_path / "config.json").read_text())
    ours = modules.build(part, config, torch.float32)
    modules.fill(part, ours, read_tensors(part.files, Wish(torch.float32), lambda _: None), torch.float32)
    assert all(torch.equal(each, vae.state_dict()[name]) for name, each in ours.state_dict().items())
