"""The simulated family: costs, pictures, evaluations, rehearsed trouble."""

import io

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from collodion.process.config import ConfigError
from collodion.wire.artifacts import DirectoryStore, upload_key
from collodion.wire.jobs import LatentId, Lora, Parameters, PromptSyntax, Reason, Stage
from collodion.worker.config import WorkerConfig
from collodion.worker.families.simulated import CostTable, Simulated
from collodion.worker.families.simulated_pictures import draw
from collodion.worker.sampling.catalog import SAMPLERS

FREE = {"simulated_step_ms": ("0",), "simulated_encode_ms": ("0",), "simulated_decode_ms": ("0",)}


def parameters(**fields):
    sensible = {"model": "simulated", "prompt": "x", "negative_prompt": "", "width": 24, "height": 16, "steps": 4}
    return Parameters(**{**sensible, "sampler": "euler", "guidance_scale": 7.5, "seed": 0, "images": 1, **fields})


@pytest.fixture
def simulated():
    return Simulated("simulated", WorkerConfig(**FREE))


@pytest.mark.parametrize(("batch", "ms"), [(1, 10), (3, 12), (5, 14), (8, 20), (100, 250)])
def test_a_batch_costs_what_the_table_says(batch, ms):
    assert CostTable.parse("any", ("5:14", "1:10", "8:20")).seconds(batch) == pytest.approx(ms / 1000)


def test_below_the_smallest_batch_it_costs_as_much_as_that_one():
    assert CostTable.parse("any", ("4:14", "8:20")).seconds(1) == pytest.approx(0.014)


@given(batch=st.integers(1, 10_000))
def test_one_number_is_what_any_batch_costs(batch):
    assert CostTable.parse("any", ("7.5",)).seconds(batch) == 0.0075


@pytest.mark.parametrize(
    "words", [(), ("ten",), ("1:2:3",), ("0:1",), ("1:-1",), ("-1",), ("1:nan",), ("nan",), ("1.5:3",), ("1:2", "3")]
)
def test_a_table_that_makes_no_sense_is_refused_by_the_name_of_its_setting(words):
    with pytest.raises(ConfigError, match="simulated_step_ms"):
        CostTable.parse("simulated_step_ms", words)


def test_every_lane_costs_what_its_own_table_says():
    costs = {"simulated_step_ms": ("2:4",), "simulated_encode_ms": ("1:6", "2:8"), "simulated_decode_ms": ("1",)}
    simulated = Simulated("simulated", WorkerConfig(**costs))
    plans = [simulated.prepare(parameters())] * 2
    encoded = simulated.encode(plans)
    states = [simulated.begin(plan, encoded.conditioning[0], 0) for plan in plans]
    spans = [encoded.span, simulated.step(states * 2).span, simulated.decode(states).span]
    # Slept, so never less; how much more says something of the machine only.
    assert all(span.wait() >= seconds for span, seconds in zip(spans, (0.008, 0.008, 0.001), strict=True))


@given(prompt=st.text(max_size=20), seed=st.integers(0, 2**53))
def test_a_picture_depends_on_its_parameters_alone(prompt, seed):
    first, again = (draw(parameters(prompt=prompt), seed) for _ in range(2))
    assert first.shape == (16, 24, 3)
    assert first.dtype == np.uint8
    assert (first == again).all()
    assert (first != draw(parameters(prompt=prompt), seed + 1)).any()
    assert (first != draw(parameters(prompt=prompt + "!"), seed)).any()


def stored(folder, name, picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    DirectoryStore(folder).put(upload_key(name), file.getvalue())
    return upload_key(name)


def drawn(folder, **fields):
    """The finished picture of these parameters."""
    simulated = Simulated("simulated", WorkerConfig(artifacts=folder, **FREE))
    plan = simulated.prepare(parameters(**fields))
    (conditioning,) = simulated.encode([plan]).conditioning
    state = simulated.begin(plan, conditioning, plan.parameters.seed)
    for _ in range(len(plan.course) - 1):
        simulated.step([state])
    (picture,) = simulated.decode([state]).pictures()
    return picture, state.evaluations


def test_adapters_their_scales_and_the_prompts_syntax_change_the_picture():
    plain = parameters()
    others = [
        {"loras": (Lora("ink"),)},
        {"loras": (Lora("ink", 0.5),)},
        {"loras": (Lora("wool"),)},
        {"prompt_syntax": PromptSyntax.WEIGHTED},
    ]
    pictures = [draw(msgspec.structs.replace(plain, **change), 0).tobytes() for change in ({}, *others)]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize(("sampler", "evaluations"), [("euler", 10), ("heun", 19), ("pndm", 11)])
def test_a_latent_that_begins_from_a_picture_runs_the_steps_that_its_strength_leaves(tmp_path, sampler, evaluations):
    key = stored(tmp_path, "a", Image.new("RGB", (5, 9), "red"))
    asked = {"sampler": sampler, "steps": 20, "init_image": key, "strength": 0.5}
    _, run = drawn(tmp_path, **asked)
    assert run == evaluations
    simulated = Simulated("simulated", WorkerConfig(artifacts=tmp_path, **FREE))
    assert simulated.info.evaluations_of(parameters(**asked)) == evaluations
    assert simulated.prepare(parameters(**asked)).course[-1] == 10


def test_what_a_job_begins_from_is_seen_in_its_picture_as_far_as_strength_and_mask_let_it(tmp_path):
    init = stored(tmp_path, "a", Image.new("RGB", (48, 32), (0, 255, 0)))
    half = Image.new("L", (24, 16), 0)
    half.paste(255, (12, 0, 24, 16))
    mask = stored(tmp_path, "m", half)
    alone, _ = drawn(tmp_path)
    weak, _ = drawn(tmp_path, init_image=init, strength=0.5)
    assert np.abs(weak - (alone * 0.5 + np.array([0, 127.5, 0]))).max() <= 1
    masked, _ = drawn(tmp_path, init_image=init, mask_image=mask, strength=1.0)
    assert (masked[:, :12] == (0, 255, 0)).all()
    assert (masked[:, 12:] == alone[:, 12:]).all()


def test_a_job_whose_upload_is_gone_fails_and_says_what_to_do(simulated, drive, tmp_path):
    simulated = Simulated("simulated", WorkerConfig(artifacts=tmp_path, **FREE))
    driver = drive(simulated)
    driver.order("lost", model="simulated", init_image=upload_key("gone"), strength=0.5)
    driver.wish([LatentId("lost", 0)])
    driver.finish()
    failure = driver.latent(LatentId("lost", 0)).failure
    assert failure.reason is Reason.UPLOAD_LOST
    assert "send it again" in failure.message


@pytest.mark.parametrize(("sampler", "evaluations"), [("euler", 20), ("heun", 39), ("kdpm2", 39), ("pndm", 21)])
def test_a_sampler_makes_as_many_evaluations_as_the_real_one(simulated, sampler, evaluations):
    course = simulated.prepare(parameters(sampler=sampler, steps=20)).course
    assert len(course) - 1 == evaluations
    assert (course[0], course[-1]) == (0, 20)
    assert list(course) == sorted(course)
    assert simulated.info.evaluations_of(parameters(sampler=sampler, steps=20)) == evaluations


def test_a_simulated_latent_takes_one_row_guided_or_not(simulated):
    assert [simulated.info.rows_of(parameters(guidance_scale=scale)) for scale in (1.0, 7.5)] == [1, 1]


def test_every_sampler_runs_with_one_step(simulated, drive):
    driver = drive(simulated, max_batch=len(SAMPLERS))
    jobs = {name: {"model": "simulated", "sampler": name, "steps": 1} for name in SAMPLERS}
    assert len(driver.draw(jobs)) == len(SAMPLERS)


def test_trouble_is_rehearsed_on_request_alone(simulated, drive):
    driver = drive(simulated)
    prompts = {"good": "x", "lost": "[nan]", "raises": "[raise]"}
    for job, prompt in prompts.items():
        driver.order(job, model="simulated", prompt=prompt)
    driver.wish([LatentId(job, 0) for job in prompts])
    driver.finish()
    assert driver.latent(LatentId("good", 0)).stage is Stage.DONE
    assert driver.latent(LatentId("lost", 0)).failure.reason is Reason.NON_FINITE_LATENT
    assert driver.latent(LatentId("raises", 0)).failure.reason is Reason.WORKER_ERROR


def test_a_preview_begins_as_noise_and_ends_as_the_picture(simulated):
    begun, ended = (simulated.preview((parameters(), 3, done)) for done in (0.0, 1.0))
    begun_grain, ended_grain = (np.abs(np.diff(picture.astype(int), axis=0)).mean() for picture in (begun, ended))
    assert begun_grain > 10 * ended_grain
