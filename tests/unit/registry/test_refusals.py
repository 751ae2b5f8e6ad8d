"""What of a models directory is not used, and the sentence that says why."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from collodion.worker.registry import ModelUnusable, read_model, scan
from tests.unit.registry.files_by_hand import LORA_SD1, Shapes, damaged, reasons, shapes_in, zeros


def test_pickles_are_refused_with_the_command_that_converts_them(tmp_path: Path) -> None:
    for name in ("old.ckpt", "word.pt", "up.pth", "more.bin"):
        (tmp_path / name).write_bytes(b"\x80\x02")
    zeros(tmp_path / "word.safetensors", {"emb_params": (8, 768)})
    found = reasons(scan(tmp_path))
    assert f"`collodion convert {tmp_path}/old.ckpt {tmp_path}/old.safetensors`" in found["old.ckpt"]
    assert "word.safetensors beside it" in found["word.pt"]
    assert found.keys() == {"old.ckpt", "word.pt", "up.pth", "more.bin"}


OTHERS = {
    "flux": ({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (4, 4)}, "FLUX checkpoint"),
    "sd3": ({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4, 4)}, "Stable Diffusion 3"),
    "control": ({"control_model.input_blocks.0.0.weight": (4, 4)}, "ControlNet"),
    "clip": ({"text_model.encoder.layers.0.mlp.fc1.weight": (4, 4), "b": (1,)}, "text encoder alone"),
    "t5": ({"encoder.block.0.layer.0.SelfAttention.q.weight": (4, 4), "b": (1,)}, "text encoder alone"),
    "unet": ({"down_blocks.0.resnets.0.conv1.weight": (4, 4), "b": (1,)}, "UNet alone"),
    "upscale": ({"model.0.weight": (4, 4), "b": (1,)}, "an upscaler"),
    "empty": ({}, "nothing that this version knows"),
    "odd": ({"x": (4, 4, 4)}, "nothing that this version knows"),
    "part-00001-of-00002": ({"x": (4, 4)}, "a piece of a model"),
    "dora": ({"lora_unet_x.lora_down.weight": (4, 4), "lora_unet_x.dora_scale": (4,)}, "DoRA"),
    "no-texts": ({"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3)}, "no text encoder"),
}


@pytest.mark.parametrize(("name", "shapes", "why"), [(name, *rest) for name, rest in OTHERS.items()], ids=OTHERS)
def test_what_cannot_be_served_is_said_to_be_what_it_is(tmp_path: Path, name: str, shapes: Shapes, why: str) -> None:
    path = zeros(tmp_path / f"{name}.safetensors", shapes)
    found = scan(tmp_path)
    assert why in reasons(found)[path.name]
    assert not found.models
    assert not found.adapters


def index_of_shards(folder: Path, **placed: object) -> None:
    """The UNet in shards."""
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "one.safetensors")
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "code of its own": (
        lambda f: damaged(f, "model_index.json", lambda s: s.update(unet=["my_unet", "MyUNet"])),
        "wants code of its own",
    ),
    "custom pipeline": (
        lambda f: damaged(f, "model_index.json", lambda s: s.update(custom_pipeline="evil")),
        "custom_pipeline",
    ),
    "auto_map": (
        lambda f: damaged(f, "text_encoder/config.json", lambda s: s.update(auto_map={"AutoModel": "x.Y"})),
        "auto_map",
    ),
    "auto_map of a tokenizer": (
        lambda f: damaged(f, "tokenizer/tokenizer_config.json", lambda s: s.update(auto_map={"a": "b"})),
        "auto_map",
    ),
    "index is a list": (lambda f: damaged(f, "model_index.json", lambda s: [s]), "not a JSON object"),
    "config is a list": (lambda f: damaged(f, "vae/config.json", lambda s: [s]), "not a JSON object"),
    "nested bomb": (lambda f: (f / "unet" / "config.json").write_text("[" * 100_000), "not JSON"),
    "part outside": (
        lambda f: damaged(
            f, "model_index.json", lambda s: s.update({"../../etc": ["diffusers", "UNet2DConditionModel"]})
        ),
        "has a part '../../etc'",
    ),
    "class of another kind": (
        lambda f: damaged(f, "model_index.json", lambda s: s.update(unet=["diffusers", "../x"])),
        "that is '../x'",
    ),
    "part missing": (lambda f: shutil.rmtree(f / "vae"), "lacks its part vae"),
    "weights missing": (lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").unlink(), "lacks its weights"),
    "config missing": (lambda f: (f / "vae" / "config.json").unlink(), "lacks its configuration"),
    "weights cut off": (
        lambda f: os.truncate(f / "vae" / "diffusion_pytorch_model.safetensors", 100_000),
        "is not complete",
    ),
    "pickled weights": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").rename(f / "vae" / "diffusion_pytorch_model.bin"),
        "`collodion convert ",
    ),
    "quantized": (
        lambda f: damaged(f, "unet/config.json", lambda s: s.update(quantization_config={"quant_method": "x"})),
        "quantized",
    ),
    "shard outside": (lambda f: index_of_shards(f, a="../../secret.safetensors"), "no .safetensors file beside it"),
    "shard by a whole path": (
        lambda f: index_of_shards(f, a="/etc/secret.safetensors"),
        "no .safetensors file beside it",
    ),
    "shard of no word": (lambda f: index_of_shards(f, a=7), "no .safetensors file beside it"),
    "shard that is a pickle": (lambda f: index_of_shards(f, a="one.bin"), "no .safetensors file beside it"),
    "shard missing": (lambda f: index_of_shards(f, a="two.safetensors"), "lacks two.safetensors"),
    "shard without its tensor": (lambda f: index_of_shards(f, a="one.safetensors"), "lacks 'a'"),
    "no map of shards": (lambda f: index_of_shards(f), "has no weight_map"),
    "setting unknown": (
        lambda f: damaged(f, "collodion.json", lambda s: s.update(default_stepz=3)),
        "no setting 'default_stepz'",
    ),
    "setting of single files": (
        lambda f: damaged(f, "collodion.json", lambda s: s.update(prediction_type="epsilon")),
        "is for single files",
    ),
    "setting of another kind": (
        lambda f: damaged(f, "collodion.json", lambda s: s.update(default_steps="3")),
        "not understood",
    ),
}


@pytest.mark.parametrize(("spoil", "why"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_or_damaged_folder_is_refused_and_the_rest_is_found(
    tmp_path: Path, spoil: Callable[[Path], object], why: str
) -> None:
    folder = shapes_in(tmp_path / "bad")
    spoil(folder)
    shapes_in(tmp_path / "good")

    found = scan(tmp_path)

    assert list(found.models) == ["good"]
    assert why in reasons(found)["bad"]
    with pytest.raises(ModelUnusable):
        read_model(folder, "bad")


def test_a_stray_config_hides_nothing(tmp_path: Path) -> None:
    """Trainers leave theirs beside what they made."""
    zeros(tmp_path / "loras" / "cat.safetensors", LORA_SD1)
    for text in ('{"learning_rate": 1e-4}', "nonsense", "[]"):
        (tmp_path / "loras" / "config.json").write_text(text)
        assert list(scan(tmp_path).adapters) == ["cat"]


def test_a_quantized_file_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "flux.gguf").write_bytes(b"GGUF")
    assert "is quantized" in reasons(scan(tmp_path))["flux.gguf"]


def test_a_cache_that_is_none_ends_no_scan(tmp_path: Path) -> None:
    odd = tmp_path / "models--a--b"
    odd.mkdir()
    (odd / "snapshots").write_text("a file")
    zeros(tmp_path / "cat.safetensors", LORA_SD1)
    found = scan(tmp_path)
    assert list(found.adapters) == ["cat"]
    assert "cannot be listed" in reasons(found)["snapshots"]


def test_python_files_in_a_folder_are_not_run(tmp_path: Path) -> None:
    folder = shapes_in(tmp_path / "shapes")
    for place in (folder, folder / "unet"):
        (place / "pipeline.py").write_text("raise SystemExit(7)")
    assert list(scan(tmp_path).models) == ["shapes"]
