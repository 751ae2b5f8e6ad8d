import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from collodion.worker.registry import (
    ModelSource,
    ModelUnusable,
    Part,
    SourceKind,
    checkpoints,
    configs_of,
    modules,
    read_model,
)
from collodion.worker.registry.headers import read_header
from collodion.worker.registry.loading import load_parts
from collodion.worker.registry.single_file import converted
from tests.unit.registry import compvis
from tests.unit.registry.conftest import Tiny, draw, published, texts
from tests.unit.registry.files_by_hand import SHAPES, zeros

CPU = torch.device("cpu")
BASES = ["sd1", "sd2", "sdxl"]


def whole(source: ModelSource) -> Any:
    """The pipeline of diffusers around what was loaded."""
    parts = load_parts(source, torch.float32, CPU)
    kind = getattr(diffusers, source.pipeline)
    if kind is diffusers.StableDiffusionXLPipeline:
        return kind(**parts, add_watermarker=False)
    return kind(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


@cache
def real(base: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The modules of the published architecture, without memory, and their tensors in a single file."""
    parts = {
        name: modules.build(Part(name, library, class_name), published(base, name), torch.float16)
        for name, (library, class_name) in checkpoints._published(base)["parts"].items()
        if name.startswith(("unet", "vae", "text"))
    }
    tensors = compvis.with_ups(compvis.unet(parts["unet"])) | compvis.vae(parts["vae"]) | texts(base, parts)
    return parts, tensors


@pytest.mark.parametrize("base", BASES)
def test_the_real_architectures_are_recognised_and_fit_tensor_by_tensor(tmp_path: Path, base: str) -> None:
    parts, tensors = real(base)
    path = zeros(tmp_path / f"{base}.safetensors", {name: tuple(each.shape) for name, each in tensors.items()})

    source = read_model(path, "x")

    configs = configs_of(source)
    assert (source.kind, source.dtype) == (SourceKind.SINGLE_FILE, "float16")
    assert source.pipeline == checkpoints._published(base)["pipeline"]
    for name in checkpoints._published(base)["configs"]:
        assert {**published(base, name), **configs[name]} == dict(configs[name])
        assert {key: configs[name][key] for key in published(base, name)} == published(base, name)
    for part in source.parts:
        if part.files:
            module = modules.build(part, configs[part.name], torch.float16)
            mine = {name: each for name, each in tensors.items() if name.startswith(part.within)}
            modules_tensors = converted(part, module, mine, configs[part.name])
            wanted = parts[part.name].state_dict()
            assert {name: modules_tensors[name].shape for name in wanted} == {
                n: each.shape for n, each in wanted.items()
            }


@pytest.mark.parametrize("base", BASES)
def test_a_single_file_draws_what_its_folder_draws(tmp_path: Path, tiny: Callable[[str], Tiny], base: str) -> None:
    model = tiny(base)
    model.pipeline.save_pretrained(tmp_path / "folder")

    folder = read_model(tmp_path / "folder", "folder")
    file = read_model(model.save(tmp_path / "file.safetensors"), "file")

    assert folder.pipeline == file.pipeline
    expected = draw(model.pipeline)
    assert np.array_equal(draw(whole(folder)), expected)
    assert np.array_equal(draw(whole(file)), expected)


def shapes_in_one_file() -> dict[str, torch.Tensor]:
    """The embedded model, whose architecture is none of the published ones."""
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        SHAPES, dtype=torch.float16, local_files_only=True, requires_safety_checker=False
    )
    tensors = compvis.with_ups(compvis.unet(pipeline.unet)) | compvis.vae(pipeline.vae)
    return {name: each.contiguous() for name, each in {**tensors, **compvis.clip(pipeline.text_encoder)}.items()}


def test_the_embedded_model_in_one_file_draws_its_pictures(tmp_path: Path) -> None:
    save_file(shapes_in_one_file(), tmp_path / "one.safetensors")
    with pytest.raises(ModelUnusable, match=r"vocabulary of 643, which is not CLIP's.*collodion\.json"):
        read_model(tmp_path / "one.safetensors", "one")

    (tmp_path / "one.collodion.json").write_text(json.dumps({"config": str(SHAPES), "default_steps": 9}))
    one = read_model(tmp_path / "one.safetensors", "one")

    assert one.sidecar["default_steps"] == 9
    assert configs_of(one)["scheduler"] == configs_of(read_model(SHAPES, "shapes"))["scheduler"]
    assert np.array_equal(draw(whole(one), 32), draw(whole(read_model(SHAPES, "shapes")), 32))

    (tmp_path / "one.collodion.json").write_text(json.dumps({"config": str(SHAPES), "prediction_type": "epsilon"}))
    assert prediction(tmp_path / "one.safetensors") == "epsilon"


def test_a_models_dimensions_are_read_off_its_shapes(tmp_path: Path, tiny: Callable[[str], Tiny]) -> None:
    for base in BASES:
        unet = configs_of(read_model(tiny(base).save(tmp_path / f"{base}.safetensors"), base))["unet"]
        ours = tiny(base).pipeline.unet.config
        for key in (
            "block_out_channels",
            "cross_attention_dim",
            "layers_per_block",
            "down_block_types",
            "up_block_types",
        ):
            assert unet[key] == ours[key]


# ---------------------------------------------------------------------- what keys cannot tell


def prediction(path: Path) -> str:
    said: str = configs_of(read_model(path, "x"))["scheduler"]["prediction_type"]
    return said


def test_a_file_predicts_epsilon_unless_something_says_v(tmp_path: Path, tiny: Callable[[str], Tiny]) -> None:
    empty = torch.empty(0)
    assert prediction(tiny("sdxl").save(tmp_path / "a.safetensors")) == "epsilon"
    assert (
        prediction(tiny("sdxl").save(tmp_path / "b.safetensors", {"modelspec.prediction_type": "v"})) == "v_prediction"
    )
    assert prediction(tiny("sdxl").save(tmp_path / "c.safetensors", v_pred=empty)) == "v_prediction"
    yaml = tiny("sd2").save(tmp_path / "d.safetensors")
    yaml.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    assert prediction(yaml) == "v_prediction"
    (tmp_path / "c.collodion.json").write_text('{"prediction_type": "epsilon"}')
    assert prediction(tmp_path / "c.safetensors") == "epsilon"


def test_a_model_trained_down_to_no_signal_gets_its_schedule(tmp_path: Path, tiny: Callable[[str], Tiny]) -> None:
    path = tiny("sdxl").save(tmp_path / "a.safetensors", v_pred=torch.empty(0), ztsnr=torch.empty(0))
    scheduler = load_parts(read_model(path, "a"), torch.float32, CPU)["scheduler"]
    assert scheduler.config.rescale_betas_zero_snr
    assert scheduler.config.timestep_spacing == "trailing"


@pytest.mark.parametrize(
    ("spread", "dtype", "expected"),
    [(0.2, "f2", "v_prediction"), (0.01, "f4", "epsilon"), (0.2, "bf16", "v_prediction")],
)
def test_sd_2_tells_by_a_weight_whether_it_predicts_v(tmp_path: Path, spread: float, dtype: str, expected: str) -> None:
    _, tensors = real("sd2")
    path = zeros(
        tmp_path / "x.safetensors",
        {name: tuple(each.shape) for name, each in tensors.items()},
        {"f2": "F16", "f4": "F32", "bf16": "BF16"}[dtype],
    )
    source = read_model(path, "x")
    entry = read_header(path).tensors["model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"]
    numbers = (np.tile([1, -1], 160) * spread).astype(np.float32)
    raw = (numbers.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bf16" else numbers.astype(dtype)
    with path.open("r+b") as file:
        file.seek(entry.begin)
        file.write(raw.tobytes())

    configs = configs_of(source)
    assert configs["scheduler"]["prediction_type"] == expected
    assert configs["unet"]["sample_size"] == (96 if expected == "v_prediction" else 64)


def test_an_inpainting_models_nine_channels_are_read_off_its_shapes(tmp_path: Path) -> None:
    _, tensors = real("sdxl")
    shapes = {name: tuple(each.shape) for name, each in tensors.items()}
    first = "model.diffusion_model.input_blocks.0.0.weight"
    painting = read_model(zeros(tmp_path / "9.safetensors", {**shapes, first: (320, 9, 3, 3)}), "x")
    assert configs_of(painting)["unet"]["in_channels"] == 9


def test_a_refiner_is_refused_as_one(tmp_path: Path) -> None:
    _, tensors = real("sdxl")
    second = {
        name.replace("embedders.1.model", "embedders.0.model"): each
        for name, each in tensors.items()
        if "embedders.0" not in name
    }
    path = zeros(tmp_path / "refiner.safetensors", {name: tuple(each.shape) for name, each in second.items()})
    with pytest.raises(ModelUnusable, match="is an SDXL refiner"):
        read_model(path, "x")


def test_unclip_and_distilled_unets_are_refused(tmp_path: Path) -> None:
    _, tensors = real("sd2")
    shapes = {name: tuple(each.shape) for name, each in tensors.items()}
    with pytest.raises(ModelUnusable, match="unCLIP"):
        read_model(
            zeros(tmp_path / "a.safetensors", {**shapes, "model.diffusion_model.label_emb.0.0.weight": (1280, 2048)}),
            "x",
        )
    shallow = {name: shape for name, shape in shapes.items() if ".middle_block.1." not in name}
    with pytest.raises(ModelUnusable, match="middle is not as deep"):
        read_model(zeros(tmp_path / "b.safetensors", shallow), "x")


# ---------------------------------------------------------------------- what does not fit


def test_a_missing_tensor_is_named(tmp_path: Path, tiny: Callable[[str], Tiny]) -> None:
    path = tiny("sd1").save(tmp_path / "a.safetensors")
    tensors = load_file(path)
    del tensors["model.diffusion_model.middle_block.1.norm.weight"]
    save_file(tensors, path)
    with pytest.raises(ModelUnusable, match=r"a\.safetensors: its unet lacks mid_block\.attentions\.0\.norm\.weight"):
        load_parts(read_model(path, "a"), torch.float32, CPU)


def test_a_wrong_shape_is_named(tmp_path: Path, tiny: Callable[[str], Tiny]) -> None:
    path = tiny("sd1").save(tmp_path / "a.safetensors")
    tensors = load_file(path)
    tensors["model.diffusion_model.out.0.weight"] = torch.zeros(7)
    save_file(tensors, path)
    with pytest.raises(ModelUnusable, match=r"conv_norm_out\.weight has shape \[7\] where \[32\] is wanted"):
        load_parts(read_model(path, "a"), torch.float32, CPU)


def test_a_file_without_a_vae_says_how_to_give_it_one(tmp_path: Path, tiny: Callable[[str], Tiny]) -> None:
    path = tiny("sd1").save(tmp_path / "a.safetensors")
    save_file({name: each for name, each in load_file(path).items() if not name.startswith("first_stage")}, path)
    with pytest.raises(ModelUnusable, match=r'its vae is missing: .*"vae"'):
        load_parts(read_model(path, "a"), torch.float32, CPU)
