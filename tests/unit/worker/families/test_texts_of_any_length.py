"""Qwen-Image and Z-Image: prompts with as many tokens as they have, side by side in one model call."""

import numpy as np
import pytest
import torch
from reference_calls import call

from collodion.wire.jobs import Parameters
from collodion.worker.families.qwen_image import QwenImage, packed, unpacked
from collodion.worker.families.z_image import ZImage

FAMILIES = ("qwen_image", "z_image")
PROMPTS = ("", "a red circle", "many boats in the harbour of a coloured town, " * 9, "rain")
NEGATIVES = ("", "blue " * 70, "", "a")


def jobs(**more):
    """Of very different prompts, every second of them not guided, in a picture of no native size."""
    return {
        f"job {number}": {
            "prompt": prompt,
            "negative_prompt": negative if number % 2 == 0 else "",
            "guidance_scale": 3.5 if number % 2 == 0 else 1.0,
            "sampler": "euler",
            "steps": 3 + number,
            "seed": 70 + number,
            "width": 112,
            "height": 80,
            **more,
        }
        for number, (prompt, negative) in enumerate(zip(PROMPTS, NEGATIVES, strict=True))
    }


def parameters(**fields):
    return Parameters(model="tiny", images=1, **{**jobs()["job 1"], **fields})


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_of_very_different_lengths_do_not_change_each_other(family, load_family, reference_of, drive, spy):
    spied = spy(load_family(family))
    pictures = drive(spied, max_batch=16).draw(jobs())
    assert max(count for lane, count in spied.lanes if lane == "step") == len(PROMPTS)
    for name, fields in jobs().items():
        latent, picture = call(reference_of(family), fields)
        error = float((spied.latents[fields["seed"]] - latent).abs().max() / latent.abs().max())
        assert error < 1e-5, name
        assert np.abs(pictures[name].astype(int) - np.round(picture * 255).astype(int)).max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reproducible_worker_draws_the_same_bits_beside_prompts_of_any_length(family, load_family, drive, spy):
    bounds = {"max_batch": 4, "decode_batch": 2, "encode_batch": 2}
    model = load_family(family, reproducible=True, **bounds)
    crowd = {**jobs(), "again": jobs()["job 2"] | {"seed": 90}}
    together = spy(model)
    drive(together, **bounds).draw(crowd)
    for name, fields in crowd.items():
        alone = spy(model)
        drive(alone, **bounds).draw({name: fields})
        assert torch.equal(alone.latents[fields["seed"]], together.latents[fields["seed"]]), name


def test_a_reproducible_call_has_as_many_tokens_however_many_rows_are_real(load_family, drive):
    """Z-Image's transformer puts all texts behind each other: were they more or fewer, other kernels could run."""
    bounds = {"max_batch": 4, "decode_batch": 2, "encode_batch": 2}
    model = load_family("z_image", reproducible=True, **bounds)
    one, other = jobs()["job 2"], jobs()["job 2"] | {"seed": 90}
    seen = []
    watched = model._architecture.denoiser.cap_embedder.register_forward_pre_hook(
        lambda _, inputs: seen.append(len(inputs[0]))
    )
    drive(model, **bounds).draw({"one": one})
    drive(model, **bounds).draw({"one": one, "other": other})
    watched.remove()
    assert len(seen) == 2 * one["steps"]
    assert len(set(seen)) == 1


def cut(model, prompt):
    return [what for what, _ in model.prepare(parameters(prompt=prompt)).warnings]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_warns_of_the_first_token_that_is_not_read(family, load_family):
    """Each letter is a token of these tokenizers."""
    model = load_family(family)
    most = model.info.max_prompt_tokens
    fits, longer = "x" * (most - 1) + "y", "x" * most + "y"
    assert cut(model, fits) == []
    assert cut(model, longer) == ["PROMPT_TRUNCATED"]
    pairs = [(fits, "x" * most), (longer, "x" * (most + 1))]
    differ = [not torch.equal(*(states(model, prompt) for prompt in pair)) for pair in pairs]
    assert differ == [True, False]


def states(model, prompt):
    encoded = model.encode([model.prepare(parameters(prompt=prompt))]).conditioning[0]
    return encoded.texts[0]["states"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_preview_shows_the_colours_of_the_picture(family, load_family, reference_of):
    """As far as a linear map can: the latent of a red picture becomes a redder preview than that of a blue one."""
    model, vae = load_family(family), load_family(family)._vae
    colours = torch.zeros(2, 3, 64, 64)
    colours[0, 0], colours[1, 2] = 1.0, 1.0
    latents = vae.normalise(torch.stack([posterior.mean for posterior in vae.encode(colours * 2 - 1)]))
    red, blue = (model.preview(latent).astype(float).mean(axis=(0, 1)) for latent in latents)
    assert model.preview(latents[0]).shape == (8, 8, 3)
    assert red[0] - red[2] > blue[0] - blue[2]


def test_a_film_vae_is_diffusers_own_for_one_frame(load_family, reference_of):
    vae, reference = load_family("qwen_image")._vae, reference_of("qwen_image").vae
    pictures = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(3)).clamp(-1, 1)
    with torch.inference_mode():
        posteriors, theirs = vae.encode(pictures), reference.encode(pictures[:, :, None]).latent_dist
        assert torch.allclose(torch.stack([one.mean for one in posteriors]), theirs.mean[:, :, 0], atol=1e-6)
        assert torch.allclose(torch.stack([one.std for one in posteriors]), theirs.std[:, :, 0], atol=1e-6)
        decoded = vae.decode(vae.normalise(theirs.mean[:, :, 0]))
        assert torch.allclose(decoded, reference.decode(theirs.mean).sample[:, :, 0], atol=1e-5)


def test_packing_is_the_pipeline_s(reference_of):
    pipeline = reference_of("qwen_image")
    latents = torch.randn(2, 4, 6, 10)
    assert torch.equal(packed(latents), pipeline._pack_latents(latents, 2, 4, 6, 10))
    assert torch.equal(unpacked(packed(latents), 6, 10), latents)


def test_z_image_begins_from_noise_of_full_precision(load_family):
    model = load_family("z_image", optimize=("dtype=bfloat16",))
    plan = model.prepare(parameters(seed=5))
    state = model.begin(plan, model.encode([plan]).conditioning[0], 5)
    expected = torch.randn((1, 16, 10, 14), generator=torch.Generator().manual_seed(5))[0]
    assert model.info.dtype == "bfloat16"
    assert torch.equal(state.trajectory.latent, expected)
    assert not torch.equal(expected.bfloat16().float(), expected)


QWEN_IMAGE = {
    "transformer": {
        "in_channels": 64,
        "out_channels": 16,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "guidance_embeds": False,
    },
    "vae": {"z_dim": 16, "temperal_downsample": [False, True, True]},
    "scheduler": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "use_dynamic_shifting": True,
        "shift_terminal": 0.02,
    },
}
Z_IMAGE = {
    "transformer": {
        "in_channels": 16,
        "dim": 3840,
        "all_patch_size": [2],
        "all_f_patch_size": [1],
        "axes_lens": [1536, 512, 512],
    },
    "vae": {"latent_channels": 16, "block_out_channels": [128, 256, 512, 512]},
    "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 6.0},
}
TURBO = {**Z_IMAGE, "scheduler": {**Z_IMAGE["scheduler"], "shift": 3.0}}


@pytest.mark.parametrize(
    ("architecture", "configs", "native", "steps", "scale", "base"),
    [
        (QwenImage, QWEN_IMAGE, 1328, 50, 4.0, "qwen-image"),
        (ZImage, Z_IMAGE, 1024, 50, 5.0, "z-image"),
        (ZImage, TURBO, 1024, 8, 1.0, "z-image"),
    ],
)
def test_the_published_models_are_offered_as_their_makers_say(architecture, configs, native, steps, scale, base):
    facts = architecture.facts(configs)
    assert facts.native == (native, native)
    assert (facts.steps, facts.guidance_scale, facts.base) == (steps, scale, base)
    assert facts.multiple == 16
    assert not native % facts.multiple
    assert len(facts.timetable(7).sigmas) == 7


def changed(configs, **options):
    return {**configs, "transformer": {**configs["transformer"], **options}}


@pytest.mark.parametrize(
    ("architecture", "configs", "reason"),
    [
        (QwenImage, changed(QWEN_IMAGE, guidance_embeds=True), "guidance as an input"),
        (QwenImage, changed(QWEN_IMAGE, zero_cond_t=True), "edits pictures"),
        (QwenImage, changed(QWEN_IMAGE, use_layer3d_rope=True), "draws layers"),
        (QwenImage, changed(QWEN_IMAGE, in_channels=128), "128 channels"),
        (ZImage, changed(Z_IMAGE, in_channels=33), "33 channels"),
        (ZImage, changed(Z_IMAGE, all_patch_size=[4]), "patches of"),
    ],
)
def test_what_wants_more_than_a_prompt_is_refused(architecture, configs, reason):
    with pytest.raises(ValueError, match=reason):
        architecture.facts(configs)


def test_the_shift_follows_the_size_of_the_picture(load_family, reference_of):
    """mu is of the picture asked for, not of the native one."""
    model, pipeline = load_family("qwen_image"), reference_of("qwen_image")
    for width, height in ((64, 64), (256, 128)):
        table = model.prepare(parameters(width=width, height=height, steps=6)).table
        pipeline("", num_inference_steps=6, width=width, height=height, output_type="latent", true_cfg_scale=1.0)
        assert list(table.timesteps) == pytest.approx(pipeline.scheduler.timesteps.tolist(), abs=1e-3)
