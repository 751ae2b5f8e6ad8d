import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from collodion.wire.jobs import AdapterKind
from collodion.worker.registry import ModelUnusable, SourceKind, headers, read_model, scan, scanning
from tests.unit.registry.conftest import Tiny
from tests.unit.registry.files_by_hand import LORA_SD1, SHAPES, Shapes, damaged, reasons, shapes_in, write, zeros

LORA_SDXL: Shapes = {
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (4, 2048),
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.weight": (640, 4),
}
VAE: Shapes = {
    "encoder.conv_in.weight": (128, 3, 3, 3),
    "encoder.down.0.block.0.conv1.weight": (128, 128, 3, 3),
    "decoder.conv_in.weight": (512, 4, 3, 3),
    "decoder.conv_out.weight": (3, 128, 3, 3),
}


KINDS: dict[str, tuple[Shapes, AdapterKind, str]] = {
    "kohya": (LORA_SD1, AdapterKind.LOW_RANK, "sd1"),
    "peft": (LORA_SDXL, AdapterKind.LOW_RANK, "sdxl"),
    "sd2": ({"lora_unet_a_attn2_to_v.lora_down.weight": (4, 1024)}, AdapterKind.LOW_RANK, "sd2"),
    "old diffusers": ({"unet.mid_block.attn2.processor.to_k_lora.down.weight": (4, 768)}, AdapterKind.LOW_RANK, "sd1"),
    "LoCon": ({**LORA_SD1, "lora_unet_conv_in.lora_mid.weight": (4, 4, 3, 3)}, AdapterKind.LOW_RANK, "sd1"),
    "LoHa": ({"lora_unet_a_attn2_to_k.hada_w1_b": (4, 768)}, AdapterKind.WHOLE, "sd1"),
    "LoKr": ({"lora_unet_input_blocks_4_1_transformer_blocks_1_attn1.lokr_w1": (4, 4)}, AdapterKind.WHOLE, "sdxl"),
    "differences": ({**LORA_SD1, "lora_unet_norm.diff_b": (4,)}, AdapterKind.WHOLE, "sd1"),
    "texts of SDXL": (
        {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 1280)},
        AdapterKind.LOW_RANK,
        "sdxl",
    ),
    "FLUX": (
        {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (4, 4)},
        AdapterKind.LOW_RANK,
        "flux1",
    ),
    "kohya's FLUX": (
        {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 4)},
        AdapterKind.LOW_RANK,
        "flux1",
    ),
    "SD3": (
        {"transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight": (4, 1536)},
        AdapterKind.LOW_RANK,
        "sd3",
    ),
    "FLUX or Qwen-Image": (
        {"transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight": (4, 3072)},
        AdapterKind.LOW_RANK,
        "",
    ),
    "Qwen-Image": (
        {"transformer.transformer_blocks.0.img_mlp.net.0.proj.lora_A.weight": (4, 4)},
        AdapterKind.LOW_RANK,
        "qwen-image",
    ),
    "Z-Image": ({"diffusion_model.layers.0.attention.to_q.lora_A.weight": (4, 4)}, AdapterKind.LOW_RANK, "z-image"),
    "unknown": ({"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 768)}, AdapterKind.LOW_RANK, ""),
}


@pytest.mark.parametrize(("shapes", "kind", "base"), KINDS.values(), ids=KINDS)
def test_an_adapters_kind_and_base_are_read_off_its_keys(
    tmp_path: Path, shapes: Shapes, kind: AdapterKind, base: str
) -> None:
    zeros(tmp_path / "x.safetensors", shapes)
    one = scan(tmp_path).adapters["x"]
    assert (one.kind, one.base) == (kind, base)


@pytest.fixture
def checkpoint(tiny: Callable[[str], Tiny]) -> Callable[[Path], Path]:
    """Writes a checkpoint that is right."""
    return tiny("sd1").save


def test_a_flat_directory_is_told_apart_by_keys(tmp_path: Path, checkpoint: Callable[[Path], Path]) -> None:
    shapes_in(tmp_path / "shapes")
    checkpoint(tmp_path / "dream.safetensors")
    zeros(tmp_path / "cat.safetensors", LORA_SD1)
    zeros(tmp_path / "ugly.safetensors", {"emb_params": (8, 768)})
    zeros(tmp_path / "both.safetensors", {"clip_l": (2, 768), "clip_g": (2, 1280)})
    zeros(tmp_path / "sharp.safetensors", VAE)

    found = scan(tmp_path)

    assert {name: one.kind for name, one in found.models.items()} == {
        "dream": SourceKind.SINGLE_FILE,
        "shapes": SourceKind.FOLDER,
    }
    assert {name: (one.kind, one.base) for name, one in found.adapters.items()} == {
        "both": (AdapterKind.EMBEDDING, "sdxl"),
        "cat": (AdapterKind.LOW_RANK, "sd1"),
        "ugly": (AdapterKind.EMBEDDING, "sd1"),
    }
    assert list(found.vaes) == ["sharp"]
    assert not found.refusals
    assert found.models["shapes"].license == "Apache-2.0"
    assert found.models["shapes"].size_bytes == sum(file.stat().st_size for file in SHAPES.rglob("*.safetensors"))


@pytest.mark.parametrize(
    "layout",
    [
        {"model": "checkpoints", "lora": "loras/anime", "embedding": "embeddings", "vae": "vae"},
        {"model": "Stable-diffusion/sub", "lora": "Lora", "embedding": "../embeddings", "vae": "VAE"},
        {"model": "loras", "lora": "vae", "embedding": "checkpoints", "vae": "anything"},
    ],
    ids=["ComfyUI", "A1111", "all in the wrong place"],
)
def test_any_layout_will_do(tmp_path: Path, checkpoint: Callable[[Path], Path], layout: dict[str, str]) -> None:
    models = tmp_path / "models"
    checkpoint(models / layout["model"] / "dream.safetensors")
    zeros(models / layout["lora"] / "cat.safetensors", LORA_SD1)
    zeros(models / layout["embedding"] / "ugly.safetensors", {"emb_params": (8, 768)})
    zeros(models / layout["vae"] / "sharp.safetensors", VAE)

    found = scan(models)

    assert (set(found.models), set(found.adapters), set(found.vaes)) == ({"dream"}, {"cat", "ugly"}, {"sharp"})


def test_a_hugging_face_cache_is_read_by_its_repositories_names(tmp_path: Path) -> None:
    repository = tmp_path / "models--acme--tiny-shapes"
    for revision in ("aaa", "bbb"):
        linked(SHAPES, repository / "snapshots" / revision, repository / "blobs")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("aaa")
    lora = zeros(tmp_path / "models--acme--lcm" / "blobs" / "123", LORA_SDXL)
    snapshot = tmp_path / "models--acme--lcm" / "snapshots" / "ccc"
    snapshot.mkdir(parents=True)
    (snapshot / "pytorch_lora_weights.safetensors").symlink_to(lora)

    found = scan(tmp_path)

    assert list(found.models) == ["acme/tiny-shapes"]
    assert found.models["acme/tiny-shapes"].path.name == "aaa"
    assert all(file.path.parent.name == "blobs" for file in found.models["acme/tiny-shapes"].files)
    assert [(name, one.base) for name, one in found.adapters.items()] == [("acme/lcm", "sdxl")]


def linked(folder: Path, snapshot: Path, blobs: Path) -> None:
    """A folder as the hub's cache keeps it: every file a link to a blob."""
    for file in (path for path in folder.rglob("*") if path.is_file()):
        blob = blobs / file.relative_to(folder).as_posix().replace("/", "_")
        blobs.mkdir(parents=True, exist_ok=True)
        if not blob.exists():
            shutil.copy(file, blob)
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))


def test_links_in_a_circle_end_and_links_elsewhere_are_followed(tmp_path: Path) -> None:
    models = tmp_path / "models"
    shapes_in(tmp_path / "elsewhere" / "shapes")
    (models / "a").mkdir(parents=True)
    (models / "a" / "up").symlink_to(models)
    (models / "mine").symlink_to(tmp_path / "elsewhere" / "shapes")
    (models / "gone.safetensors").symlink_to(tmp_path / "nowhere")

    found = scan(models)

    assert list(found.models) == ["mine"]
    assert "cannot be read" in reasons(found)["gone.safetensors"]


# ---------------------------------------------------------------------- names


def test_two_of_one_name_are_called_by_their_paths(tmp_path: Path) -> None:
    zeros(tmp_path / "a" / "cat.safetensors", LORA_SD1)
    zeros(tmp_path / "b" / "cat.safetensors", LORA_SDXL)
    zeros(tmp_path / "dog.safetensors", LORA_SD1)
    assert {name: one.base for name, one in scan(tmp_path).adapters.items()} == {
        "a/cat": "sd1",
        "b/cat": "sdxl",
        "dog": "sd1",
    }


def test_a_folder_and_a_file_of_one_path_are_told_apart_by_the_suffix(
    tmp_path: Path, checkpoint: Callable[[Path], Path]
) -> None:
    shapes_in(tmp_path / "x")
    checkpoint(tmp_path / "x.safetensors")
    assert set(scan(tmp_path).models) == {"x", "x.safetensors"}


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("my lora v1.2 (final)", "my lora v1.2 (final)"),
        ("a,b=c:d<e>f|g", "a_b_c_d_e_f_g"),
        ("-rf", "_rf"),
        ("cafe\u0301", "café"),
        ("水墨", "水墨"),
        ("tab\tnew\nline", "tab_new_line"),
    ],
)
def test_names_can_be_said_in_requests_prompts_and_command_lines(tmp_path: Path, file: str, name: str) -> None:
    zeros(tmp_path / f"{file}.safetensors", LORA_SD1)
    assert list(scan(tmp_path).adapters) == [name]


def test_what_cannot_be_named_apart_is_refused(tmp_path: Path) -> None:
    zeros(tmp_path / "a,b.safetensors", LORA_SD1)
    zeros(tmp_path / "a=b.safetensors", LORA_SD1)
    found = scan(tmp_path)
    assert not found.adapters
    assert all("rename it" in reason for reason in reasons(found).values())


# ---------------------------------------------------------------------- what a user says of a model


def test_a_sidecar_names_another_vae(tmp_path: Path, checkpoint: Callable[[Path], Path]) -> None:
    checkpoint(tmp_path / "dream.safetensors")
    zeros(tmp_path / "vae" / "sharp.safetensors", VAE)
    (tmp_path / "dream.collodion.json").write_text('{"vae": "sharp", "license": "openrail"}')

    dream = scan(tmp_path).models["dream"]

    assert dream.vae is not None
    assert dream.part("vae") == dream.vae.part
    assert {file.path.name for file in dream.files} == {"dream.safetensors", "sharp.safetensors"}
    assert dream.license == "openrail"
    assert read_model(tmp_path / "dream.safetensors", "dream", scan(tmp_path).vaes) == dream
    with pytest.raises(ModelUnusable, match="VAE 'sharp'; there are: none"):
        read_model(tmp_path / "dream.safetensors", "dream")


def test_a_vae_beside_a_checkpoint_is_its_own(tmp_path: Path, checkpoint: Callable[[Path], Path]) -> None:
    checkpoint(tmp_path / "dream.safetensors")
    zeros(tmp_path / "dream.vae.safetensors", VAE)
    found = scan(tmp_path)
    assert found.models["dream"].vae == found.vaes["dream.vae"]


def test_a_vae_that_is_not_there_is_asked_for_by_name(tmp_path: Path) -> None:
    folder = shapes_in(tmp_path / "shapes")
    damaged(folder, "collodion.json", lambda said: said.update(vae="sharp"))
    zeros(tmp_path / "soft.safetensors", VAE)
    assert "VAE 'sharp'; there are: soft" in reasons(scan(tmp_path))["shapes"]


def test_a_vae_comes_as_a_folder_too(tmp_path: Path) -> None:
    shutil.copytree(SHAPES / "vae", tmp_path / "sdxl-vae-fp16-fix")
    shutil.copytree(SHAPES / "unet", tmp_path / "unet")
    found = scan(tmp_path)
    assert list(found.vaes) == ["sdxl-vae-fp16-fix"]
    assert "UNet2DConditionModel alone" in reasons(found)["unet"]


# ---------------------------------------------------------------------- again


def test_a_second_scan_opens_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes_in(tmp_path / "shapes")
    zeros(tmp_path / "cat.safetensors", LORA_SD1)
    (tmp_path / "old.ckpt").write_bytes(b"")
    first = scan(tmp_path)
    opened: list[Path] = []
    read = headers.opened
    monkeypatch.setattr(headers, "opened", lambda path: (opened.append(path), read(path))[1])

    again = scan(tmp_path, first)
    assert (again.models, again.adapters, again.refusals) == (first.models, first.adapters, first.refusals)
    assert not opened

    zeros(tmp_path / "cat.safetensors", LORA_SDXL)
    damaged(tmp_path / "shapes", "unet/config.json", lambda said: said.update(auto_map="x"))
    (tmp_path / "cat.safetensors").touch()
    third = scan(tmp_path, again)
    assert third.adapters["cat"].base == "sdxl"
    assert not third.models
    assert "auto_map" in reasons(third)["shapes"]
    assert {path.name for path in opened} <= {"cat.safetensors"} | {file.name for file in SHAPES.rglob("*.safetensors")}

    (tmp_path / "cat.safetensors").unlink()
    assert not scan(tmp_path, third).adapters


def test_a_missing_directory_is_an_empty_registry_with_a_reason(tmp_path: Path) -> None:
    found = scan(tmp_path / "none")
    assert not found.models
    assert "cannot be listed: No such file" in reasons(found)["none"]


def test_scanning_needs_no_torch(tmp_path: Path, checkpoint: Callable[[Path], Path]) -> None:
    shapes_in(tmp_path / "shapes")
    checkpoint(tmp_path / "dream.safetensors")
    code = (
        "import sys; from pathlib import Path; from collodion.worker.registry import scan, configs_of;"
        f"found = scan(Path({str(tmp_path)!r})); [configs_of(one) for one in found.models.values()];"
        "assert len(found.models) == 2; assert not {'torch', 'diffusers', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_thousands_of_files_are_found_again(tmp_path: Path) -> None:
    one = zeros(tmp_path / "0.safetensors", LORA_SD1)
    for index in range(1, 2000):
        os.link(one, tmp_path / f"{index}.safetensors")
    first = scan(tmp_path)
    began = time.perf_counter()
    again = scan(tmp_path, first)
    print(f"{time.perf_counter() - began:.3f} s")
    assert len(again.adapters) == 2000


def test_a_wrong_header_in_a_directory_is_a_refusal(tmp_path: Path) -> None:
    write(tmp_path / "bad.safetensors", b"nonsense", 4)
    os.mkfifo(tmp_path / "pipe.safetensors")
    found = reasons(scan(tmp_path))
    assert "is damaged" in found["bad.safetensors"]
    assert "is not a file" in found["pipe.safetensors"]


def test_a_directory_that_is_too_deep_is_said_to_be(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*"abcdefghijklmnopqrst")
    zeros(deep / "cat.safetensors", LORA_SD1)
    assert any("too deep" in reason for reason in reasons(scan(tmp_path)).values())
    assert scanning._DEEPEST < 20


def test_a_look_that_takes_too_long_leaves_the_rest_to_the_next(tmp_path):
    for number in range(5):
        zeros(tmp_path / f"lora{number}.safetensors", LORA_SD1)
    first = scan(tmp_path, patience_s=-1.0)
    assert first.adapters == {}
    assert len(scan(tmp_path, first).adapters) == 5
