"""What Stable Diffusion 3 and FLUX promise and warn of, at sizes and in precisions other than the usual."""

import pytest
import torch

from collodion.wire.jobs import Parameters
from collodion.worker.families.flux import Flux
from collodion.worker.families.stable_diffusion_3 import StableDiffusion3
from collodion.worker.optimize.plan import dtype_of
from collodion.worker.optimize.wishes import Precision, Wish

VAE = {"latent_channels": 16, "block_out_channels": [128, 256, 512, 512]}
CLIP = {"model_max_length": 77}
DEV_SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
SCHNELL_SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": False}
FLUX = {"in_channels": 64, "out_channels": None, "num_attention_heads": 24, "attention_head_dim": 128}
MEDIUM = {"in_channels": 16, "out_channels": 16, "num_attention_heads": 24, "attention_head_dim": 64, "patch_size": 2}


def flux_configs(guidance_embeds=True, scheduler=DEV_SCHEDULER, **transformer):
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"), CLIP)
    transformer = {**FLUX, "guidance_embeds": guidance_embeds, **transformer}
    return {**parts, "vae": VAE, "scheduler": scheduler, "transformer": transformer}


def sd3_configs(t5=True, **transformer):
    names = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", *(["text_encoder_3"] if t5 else []))
    transformer = {**MEDIUM, "sample_size": 128, "pos_embed_max_size": 192, **transformer}
    return {**dict.fromkeys(names, CLIP), "vae": VAE, "scheduler": SCHNELL_SCHEDULER, "transformer": transformer}


def parameters(**fields):
    sensible = {"prompt": "a red circle", "negative_prompt": "", "width": 64, "height": 64, "steps": 4}
    sensible |= {"model": "tiny", "sampler": "euler", "guidance_scale": 1.0, "seed": 1, "images": 1}
    return Parameters(**{**sensible, **fields})


def reasons(pipeline, **fields):
    return [reason for reason, _ in pipeline.prepare(parameters(**fields)).warnings]


@pytest.mark.parametrize(("family", "size"), [("flux_dev", (96, 64)), ("sd35", (64, 96)), ("sd35_by_size", (96, 64))])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_a_picture_of_another_size_is_the_one_that_diffusers_draws(
    family, size, sampler, load_family, reference_of, drive, spy
):
    from reference_calls import call

    fields = {"prompt": "a red circle", "negative_prompt": "", "steps": 4, "guidance_scale": 3.5, "seed": 5}
    fields |= {"sampler": sampler, "width": size[0], "height": size[1]}
    spied = spy(load_family(family))
    drive(spied).draw({"other": fields, "native": {**fields, "width": 64, "height": 64, "seed": 6}})
    expected, _ = call(reference_of(family), fields)
    assert spied.latents[5].shape == (16, size[1] // 8, size[0] // 8)
    assert float((spied.latents[5] - expected).abs().max() / expected.abs().max()) < 1e-4


@pytest.mark.parametrize("family", ["flux_dev", "sd35_by_size"])
def test_a_schedule_that_depends_on_the_size_does(family, load_family):
    tables = [load_family(family).prepare(parameters(width=width, height=64)).table for width in (64, 96)]
    assert tables[0].timesteps[0] == tables[1].timesteps[0]
    assert tables[0].timesteps[1] < tables[1].timesteps[1]


@pytest.mark.parametrize("family", ["flux_dev", "sd35", "qwen_image", "z_image"])
def test_bfloat16_comes_as_near_to_diffusers_as_bfloat16_can(family, load_family, reference_of, drive, spy):
    from reference_calls import call

    fields = {"prompt": "a red circle", "negative_prompt": "", "steps": 3, "guidance_scale": 2.0, "seed": 5}
    fields |= {"sampler": "euler", "width": 64, "height": 64}
    spied = spy(load_family(family, optimize=("dtype=bfloat16",)))
    drive(spied).draw({"rounded": fields})
    expected, _ = call(reference_of(family, dtype=torch.bfloat16), fields)
    assert spied.info.dtype == "bfloat16"
    assert float((spied.latents[5] - expected.float()).abs().max() / expected.abs().max()) < 0.05


def test_a_guided_latent_of_flux_takes_one_row_and_of_sd3_two(load_family):
    guided = parameters(guidance_scale=3.5)
    assert [load_family(name).info.rows_of(guided) for name in ("flux_dev", "flux_schnell", "sd35")] == [1, 1, 2]


def test_what_flux_cannot_honour_is_said(load_family):
    dev, schnell = load_family("flux_dev"), load_family("flux_schnell")
    assert reasons(dev, guidance_scale=3.5) == []
    assert reasons(dev, negative_prompt="blue") == ["NEGATIVE_PROMPT_IGNORED"]
    assert reasons(schnell, guidance_scale=schnell.info.default_guidance_scale) == []
    assert reasons(schnell, guidance_scale=3.5) == ["GUIDANCE_IGNORED"]


@pytest.mark.parametrize(("family", "read"), [("flux_dev", 511), ("sd35", 255), ("sd3", 22)])
def test_the_longest_of_the_text_encoders_says_what_is_not_read(family, read, load_family):
    pipeline = load_family(family)
    assert pipeline.info.max_prompt_tokens == read
    assert reasons(pipeline, prompt="a " * read) == []
    assert reasons(pipeline, prompt="a " * read + "circle") == ["PROMPT_TRUNCATED"]


def test_models_are_described_as_their_pipelines_have_them(load_family):
    sd3, dev, schnell = (load_family(name).info for name in ("sd35", "flux_dev", "flux_schnell"))
    assert (sd3.native_width, sd3.size_multiple, sd3.default_steps, sd3.default_guidance_scale) == (64, 16, 28, 7.0)
    assert (dev.native_width, dev.size_multiple, dev.default_steps, dev.default_guidance_scale) == (1024, 16, 28, 3.5)
    assert (schnell.default_steps, schnell.default_guidance_scale) == (4, 0.0)
    assert {info.base for info in (sd3, dev, schnell)} == {""}
    assert {info.default_sampler for info in (sd3, dev, schnell)} == {"euler"}
    assert sd3.samplers == ("euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "unipc", "lcm")
    assert dev.samplers == schnell.samplers == tuple(name for name in sd3.samplers if name != "heun")
    assert {refusal.name for refusal in dev.refused_samplers} >= {"ddim", "euler_a", "heun"}


def test_positions_that_a_model_does_not_know_bound_its_size(load_family):
    assert load_family("sd35").info.max_size == 96


@pytest.mark.parametrize(
    ("facts", "base", "steps", "guidance"),
    [
        (Flux.facts(flux_configs()), "flux1", 28, 3.5),
        (Flux.facts(flux_configs(guidance_embeds=False, scheduler=SCHNELL_SCHEDULER)), "flux1", 4, 0.0),
        (StableDiffusion3.facts(sd3_configs()), "sd3", 28, 7.0),
        (StableDiffusion3.facts(sd3_configs(num_attention_heads=38)), "sd3", 28, 7.0),
    ],
)
def test_models_of_the_real_sizes_are_told_by_their_widths(facts, base, steps, guidance):
    assert (facts.native, facts.multiple) == ((1024, 1024), 16)
    assert (facts.base, facts.steps, facts.guidance_scale) == (base, steps, guidance)


def test_a_model_without_t5_reads_what_clip_reads():
    assert StableDiffusion3.facts(sd3_configs(t5=False)).text_tokens == 75


@pytest.mark.parametrize(
    ("architecture", "configs", "sentence"),
    [
        (Flux, flux_configs(in_channels=384, out_channels=64), "384 channels"),
        (Flux, flux_configs(in_channels=128, out_channels=64), "128 channels"),
        (Flux, {name: one for name, one in flux_configs().items() if name != "text_encoder"}, "text encoders"),
        (StableDiffusion3, sd3_configs(in_channels=33), "33 channels"),
        (StableDiffusion3, {n: one for n, one in sd3_configs().items() if n != "text_encoder_2"}, "text encoders"),
    ],
)
def test_relatives_that_want_more_than_a_prompt_are_refused(architecture, configs, sentence):
    with pytest.raises(ValueError, match=sentence):
        architecture.facts(configs)


def test_models_with_t5_prefer_bfloat16_on_a_gpu_unless_a_precision_is_chosen():
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert dtype_of(Wish(), gpu, Flux.gpu_dtype) is torch.bfloat16
    assert dtype_of(Wish(dtype=Precision.FLOAT16), gpu, Flux.gpu_dtype) is torch.float16
    assert dtype_of(Wish(), cpu, Flux.gpu_dtype) is torch.float32


@pytest.mark.parametrize("family", ["flux_dev", "sd35"])
def test_a_reproducible_worker_draws_the_same_bits_alone_and_beside_others(family, load_family, drive):
    bounds = {"max_batch": 4, "decode_batch": 2, "encode_batch": 2}
    model = load_family(family, reproducible=True, **bounds)
    jobs = {
        "guided": {"seed": 1, "guidance_scale": 3.5, "steps": 3},
        "longer": {"seed": 2, "guidance_scale": 1.0, "prompt": "two small green squares and many more"},
        "other": {"seed": 3, "guidance_scale": 2.0, "sampler": "dpmpp_2m", "steps": 5},
    }
    together = drive(model, **bounds).draw(jobs)
    for name, fields in jobs.items():
        assert (drive(model, **bounds).draw({name: fields})[name] == together[name]).all(), name
