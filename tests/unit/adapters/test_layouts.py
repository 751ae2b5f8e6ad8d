"""The same adapter in every layout that people have."""

import json

import pytest
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import (
    _convert_kohya_flux_lora_to_diffusers,
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from tiny_pipelines import MADE
from written_files import attention_only, factors, kohya_name, modules, write

from collodion.worker.adapters.alternatives import alternatives
from collodion.worker.adapters.names import Names
from collodion.worker.adapters.reading import read_adapter
from collodion.worker.adapters.sites import sites_of

ALPHA, RANK = 3.0, 4


def names_of(components):
    return Names(
        {
            component: None if model is None else (model, sites_of(component, model))
            for component, model in components.items()
        }
    )


def matrices(contents):
    """Every change as a matrix, by the name of its module."""
    return {site.name: change.delta.matrix().view(site.shape) for site, change in contents.changes.items()}


def by_module(components, wanted=attention_only):
    generator = torch.Generator().manual_seed(0)
    return {
        (component, path): factors(module, RANK, generator) for component, path, module in modules(components, wanted)
    }


def expected(made, scale=1.0):
    return {
        f"{component}.{path}": scale * (up.flatten(1) @ down.flatten(1)).view(up.shape[0], *down.shape[1:])
        for (component, path), (down, up) in made.items()
    }


def check(contents, wanted):
    found = matrices(contents)
    assert found.keys() == wanted.keys()
    for name, matrix in wanted.items():
        torch.testing.assert_close(found[name], matrix, rtol=1e-5, atol=1e-6)


def text_path(path):
    return path if path.startswith("text_") else "text_model." + path


def of_diffusers(component, path):
    return f"{component}.{text_path(path) if component.startswith('text') else path}"


def of_old_diffusers(component, path):
    """As before peft: the projections were named by the processor of their attention."""
    for now, before in (("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("out_proj", "to_out")):
        path = path.replace(f"self_attn.{now}", f"self_attn.{before}_lora")
    if component == "unet":
        for projection in ("to_q", "to_k", "to_v"):
            path = path.replace(f".{projection}", f".processor.{projection}_lora")
        path = path.replace(".to_out.0", ".processor.to_out_lora")
    return of_diffusers(component, path)


LAYOUTS = {
    "diffusers": (of_diffusers, ".lora_A.weight", ".lora_B.weight"),
    "diffusers with the adapter's name": (of_diffusers, ".lora_A.default.weight", ".lora_B.default.weight"),
    "diffusers, text encoder before peft": (
        of_diffusers,
        ".lora_linear_layer.down.weight",
        ".lora_linear_layer.up.weight",
    ),
    "diffusers, first": (of_old_diffusers, ".down.weight", ".up.weight"),
    "kohya": (kohya_name, ".lora_down.weight", ".lora_up.weight"),
    "kohya with numbered text encoders": (
        lambda component, path: kohya_name(component, path, numbered=True),
        ".lora_down.weight",
        ".lora_up.weight",
    ),
    "ComfyUI": (
        lambda component, path: (
            {
                "unet": "diffusion_model.",
                "text_encoder": "text_encoders.clip_l.transformer.",
                "text_encoder_2": "text_encoders.clip_g.transformer.",
            }[component]
            + (text_path(path) if component.startswith("text") else path)
        ),
        ".lora_A.weight",
        ".lora_B.weight",
    ),
}


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("alpha", [None, ALPHA])
def test_a_layout_of_stable_diffusion_is_read(name, layout, alpha, tmp_path):
    components = MADE[name]()
    named, down_key, up_key = LAYOUTS[layout]
    made = by_module(components)
    tensors = {}
    for (component, path), (down, up) in made.items():
        base = named(component, path)
        tensors[base + down_key], tensors[base + up_key] = down, up
        if alpha is not None:
            tensors[base + ".alpha"] = torch.tensor(alpha)
    contents = read_adapter(write(tmp_path / "lora.safetensors", tensors), names_of(components))
    check(contents, expected(made, 1.0 if alpha is None else alpha / RANK))
    assert not contents.notes


@pytest.mark.parametrize(
    "prefix", ["", "transformer.", "diffusion_model.", "base_model.model.", "lora_transformer_", "lycoris_"]
)
@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_a_transformers_adapter_is_read_whatever_stands_before_its_names(name, prefix, tmp_path):
    components = {"transformer": MADE[name]()["transformer"]}
    made = by_module(components)
    tensors = {}
    for (_, path), (down, up) in made.items():
        base = prefix + (path.replace(".", "_") if prefix.endswith("_") else path)
        tensors[base + ".lora_A.weight"], tensors[base + ".lora_B.weight"] = down, up
    check(read_adapter(write(tmp_path / "lora.safetensors", tensors), names_of(components)), expected(made))


def test_names_of_sdxl_as_its_makers_published_it_are_those_that_diffusers_knows():
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    sites = sites_of("unet", unet)
    others = alternatives(unet, list(sites))
    assert {path for other in others for path in other.paths} == set(sites)
    for other in others:
        base = f"lora_unet_{other.name}"
        state = {f"{base}.lora_down.weight": torch.zeros(1, 1), f"{base}.lora_up.weight": torch.zeros(1, 1)}
        converted, _ = _convert_non_diffusers_lora_to_diffusers(_maybe_map_sgm_blocks_to_diffusers(state, unet.config))
        theirs = next(iter(converted)).removeprefix("unet.").replace(".processor.", ".")
        for old, new in (("_lora.down.weight", ""), (".lora.down.weight", ""), (".to_out", ".to_out.0")):
            theirs = theirs.replace(old, new) if old != ".to_out" or not theirs.endswith(".0") else theirs
        assert theirs == other.paths[0]


def test_names_of_flux_as_its_makers_published_it_mean_what_diffusers_makes_of_them(tmp_path):
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    sites = sites_of("transformer", transformer)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for other in alternatives(transformer, list(sites)):
        if other.name.endswith(("lora1", "lora2", "_0_qkv", "_0_proj")):
            continue  # XLabs' own
        base, members = f"lora_unet_{other.name}", [sites[path] for path in other.paths]
        tensors[base + ".lora_down.weight"] = torch.randn(2, members[0].shape[1], generator=generator)
        tensors[base + ".lora_up.weight"] = torch.randn(sum(site.shape[0] for site in members), 2, generator=generator)
    theirs = _convert_kohya_flux_lora_to_diffusers(dict(tensors))
    contents = read_adapter(write(tmp_path / "lora.safetensors", tensors), names_of({"transformer": transformer}))
    assert {site.path for site in contents.changes} == set(sites)
    for site, change in contents.changes.items():
        down, up = (
            next(
                value
                for key, value in theirs.items()
                if key.removeprefix("transformer.") == f"{site.path}.{side}.weight"
            )
            for side in ("lora_A", "lora_B")
        )
        assert torch.equal(change.delta.down, down)
        assert torch.equal(change.delta.up, up)


def test_xlabs_names_of_flux_are_read(tmp_path):
    transformer = MADE["flux"]()["transformer"]
    width = 16
    down, up = torch.randn(2, width), torch.randn(3 * width, 2)
    tensors = {
        "double_blocks.0.processor.qkv_lora2.down.weight": down,
        "double_blocks.0.processor.qkv_lora2.up.weight": up,
        "double_blocks.1.processor.proj_lora1.down.weight": down,
        "double_blocks.1.processor.proj_lora1.up.weight": up[:width],
        "single_blocks.0.processor.qkv_lora.down.weight": down,
        "single_blocks.0.processor.qkv_lora.up.weight": up,
    }
    found = matrices(read_adapter(write(tmp_path / "x.safetensors", tensors), names_of({"transformer": transformer})))
    whole = up @ down
    assert len(found) == 7
    for place, side in enumerate(("q", "k", "v")):
        own = whole[place * width : (place + 1) * width]
        torch.testing.assert_close(found[f"transformer.transformer_blocks.0.attn.add_{side}_proj"], own)
        torch.testing.assert_close(found[f"transformer.single_transformer_blocks.0.attn.to_{side}"], own)
    torch.testing.assert_close(found["transformer.transformer_blocks.1.attn.to_out.0"], whole[:width])


def test_names_of_sd3_as_its_makers_published_it_are_read(tmp_path):
    """Held against the converter of diffusers for whole files: the same names, the same rows."""
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    transformer = MADE["sd3"]()["transformer"]
    sites = sites_of("transformer", transformer)
    generator = torch.Generator().manual_seed(0)
    tensors, weights = {}, {}
    for other in alternatives(transformer, list(sites)):
        members = [sites[path] for path in other.paths]
        down = torch.randn(2, *members[0].shape[1:], generator=generator)
        up = torch.randn(sum(site.shape[0] for site in members), 2, generator=generator)
        base = f"lora_unet_{other.name}"
        tensors[base + ".lora_down.weight"], tensors[base + ".lora_up.weight"] = down, up
        weights[other.name] = (up @ down.flatten(1)).view(-1, *members[0].shape[1:])
    found = matrices(read_adapter(write(tmp_path / "x.safetensors", tensors), names_of({"transformer": transformer})))
    assert len(found) == len(sites) - 1  # all but context_embedder, which is called so by both

    dotted = {name.replace(".", "_"): name for block in range(3) for name in _sd3_names(block)}
    checkpoint = _Checkpoint({dotted[name] + ".weight": weight for name, weight in weights.items()})
    checkpoint |= {f"joint_blocks.{block}.x_block.attn.ln_q.weight": torch.zeros(8) for block in range(3)}
    checkpoint["context_embedder.weight"] = torch.zeros(16, 20)
    converted = convert_sd3_transformer_checkpoint_to_diffusers(checkpoint, config={"caption_projection_dim": 16})
    for name, matrix in found.items():
        theirs = converted[name.removeprefix("transformer.") + ".weight"]
        torch.testing.assert_close(matrix, theirs.view(matrix.shape))


class _Checkpoint(dict):
    """With something to pop for every key that it is asked for: norms and biases."""

    def pop(self, key, *default):
        return super().pop(key, *default) if key in self else torch.zeros(6)


def _sd3_names(block):
    """Of the modules in files of SD3's makers: of one block, and of those that are in none."""
    for part in ("x_block", "context_block"):
        for name in ("attn.qkv", "attn.proj", "attn2.qkv", "attn2.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1"):
            yield f"joint_blocks.{block}.{part}.{name}"
    yield from ("x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "y_embedder.mlp.0", "y_embedder.mlp.2")
    yield from ("context_embedder", "final_layer.linear", "final_layer.adaLN_modulation.1")


def test_peft_says_in_the_metadata_how_strong_its_products_are(tmp_path):
    components = {"unet": MADE["sd1"]()["unet"]}
    made = by_module(components)
    tensors = {}
    for (_, path), (down, up) in made.items():
        tensors[f"unet.{path}.lora_A.weight"], tensors[f"unet.{path}.lora_B.weight"] = down, up
    odd = next(path for _, path in made)
    said = {"unet.r": RANK, "unet.lora_alpha": 2, "unet.alpha_pattern": {odd: 8}, "unet.use_rslora": False}
    plain = write(tmp_path / "a.safetensors", tensors, {"lora_adapter_metadata": json.dumps(said)})
    wanted = expected(made, 0.5)
    wanted[f"unet.{odd}"] *= 4
    check(read_adapter(plain, names_of(components)), wanted)
    said = {"unet.r": RANK, "unet.lora_alpha": 2, "unet.use_rslora": True}
    rooted = write(tmp_path / "b.safetensors", tensors, {"lora_adapter_metadata": json.dumps(said)})
    check(read_adapter(rooted, names_of(components)), expected(made, 1.0))


def test_peft_says_in_a_file_beside_how_strong_its_products_are(tmp_path):
    components = {"unet": MADE["sd1"]()["unet"]}
    made = by_module(components)
    tensors = {}
    for (_, path), (down, up) in made.items():
        base = f"base_model.model.{path}"
        tensors[base + ".lora_A.weight"], tensors[base + ".lora_B.weight"] = down, up
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 1}))
    path = write(tmp_path / "adapter_model.safetensors", tensors)
    check(read_adapter(path, names_of(components)), expected(made, 0.25))


def test_what_is_for_a_part_that_is_not_loaded_is_noted_and_left(tmp_path):
    transformer = MADE["flux"]()["transformer"]
    down, up = torch.randn(2, 16), torch.randn(16, 2)
    tensors = {
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": down,
        "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": up,
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight": down,
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight": up,
        "text_encoder.text_projection.lora_A.weight": down,
        "text_encoder.text_projection.lora_B.weight": up,
        "transformer.nowhere.lora_A.weight": down,
        "transformer.nowhere.lora_B.weight": torch.zeros_like(up),
    }
    components = {"transformer": transformer, "text_encoder": MADE["flux"]()["text_encoder"], "text_encoder_2": None}
    contents = read_adapter(write(tmp_path / "x.safetensors", tensors), names_of(components))
    assert len(contents.changes) == 1
    assert sorted(contents.notes) == [
        "1 modules are not used: its part of the model is not loaded",
        "1 modules are not used: the text encoder has no projection",
        "1 modules are not used: they are all zeros",
    ]


def test_a_module_that_a_file_names_twice_alike_is_changed_once(tmp_path):
    unet = MADE["sdxl"]()["unet"]
    down, up = torch.randn(2, 32), torch.randn(32, 2)
    tensors = {}
    for base in (
        "input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
    ):
        tensors[f"lora_unet_{base}.lora_down.weight"], tensors[f"lora_unet_{base}.lora_up.weight"] = down, up
    found = matrices(read_adapter(write(tmp_path / "x.safetensors", tensors), names_of({"unet": unet})))
    torch.testing.assert_close(found["unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"], up @ down)
