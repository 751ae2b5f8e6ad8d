"""One bad latent never harms its batch."""

import numpy as np
import pytest

from collodion.wire.jobs import LatentId, Reason, Stage
from collodion.worker.families import evaluation

JOBS = {
    "first": {"sampler": "euler_a", "steps": 4, "seed": 1},
    "second": {"sampler": "dpmpp_2m_sde", "steps": 3, "seed": 2, "guidance_scale": 1.0},
    "third": {"sampler": "ddim", "steps": 5, "seed": 3, "prompt": "green"},
}


class Interrupted:
    """A UNet that asks `trouble` before every call."""

    def __init__(self, unet, trouble):
        self._unet, self._trouble = unet, trouble

    def __call__(self, sample, encoder_hidden_states, **options):
        self._trouble(sample, encoder_hidden_states)
        return self._unet(sample, encoder_hidden_states=encoder_hidden_states, **options)

    def __getattr__(self, name):
        return getattr(self._unet, name)


@pytest.fixture
def interrupt(tiny, monkeypatch):
    """Puts trouble before the tiny model's UNet."""

    def put(trouble):
        unet = tiny._architecture.denoiser
        monkeypatch.setattr(tiny._architecture, "denoiser", Interrupted(unet, trouble))

    return put


@pytest.fixture(scope="module")
def undisturbed(tiny, drive):
    return drive(tiny).draw(JOBS)


def run(driver, jobs):
    for job, fields in jobs.items():
        driver.order(job, **fields)
    driver.wish([LatentId(job, 0) for job in jobs])
    driver.finish()
    return {latent.id.job: latent for latent in driver.outbox.held.latents}


def check_the_others(driver, latents, undisturbed):
    for job in JOBS:
        assert latents[job].stage is Stage.DONE
        assert np.abs(driver.recorder.pictures[LatentId(job, 0)].astype(int) - undisturbed[job]).max() <= 1


def test_a_latent_that_goes_non_finite_fails_alone(tiny, drive, undisturbed):
    driver = drive(tiny)
    latents = run(driver, {"bad": {"guidance_scale": 1e38, "steps": 8}, **JOBS})
    assert latents["bad"].failure.reason is Reason.NON_FINITE_LATENT
    assert latents["bad"].state is None
    check_the_others(driver, latents, undisturbed)


def test_a_latent_that_raises_in_the_model_call_fails_alone(tiny, drive, undisturbed, interrupt):
    poison = tiny.encode([tiny.prepare(run_parameters("poison"))]).conditioning[0].texts[0]["states"]

    def trouble(inputs, texts):
        if any((text == poison).all() for text in texts):
            raise ValueError("this text is not to be thought of")

    interrupt(trouble)
    driver = drive(tiny)
    latents = run(driver, {"bad": {"prompt": "poison", "steps": 8}, **JOBS})
    assert latents["bad"].failure.reason is Reason.WORKER_ERROR
    assert "ValueError: this text is not to be thought of" in latents["bad"].failure.message
    check_the_others(driver, latents, undisturbed)


def run_parameters(prompt):
    from collodion.wire.jobs import Parameters

    return Parameters("tiny", prompt, "", 64, 64, 4, "euler", 1.0, 1, 1)


def test_a_batch_that_does_not_fit_the_memory_is_run_row_by_row(tiny, drive, undisturbed, interrupt):
    def trouble(inputs, texts):
        if len(inputs) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")

    interrupt(trouble)
    driver = drive(tiny)
    latents = run(driver, JOBS)
    assert driver.failures == []
    check_the_others(driver, latents, undisturbed)


def test_a_latent_that_does_not_fit_even_alone_is_told_so(tiny, drive, interrupt):
    def trouble(inputs, texts):
        raise MemoryError

    interrupt(trouble)
    latents = run(drive(tiny), JOBS)
    assert {latent.failure.reason for latent in latents.values()} == {Reason.OUT_OF_MEMORY}


def test_an_update_that_fails_half_way_is_as_if_it_had_not_begun(tiny, drive, undisturbed, monkeypatch):
    update, calls = evaluation.update, []

    def half_way(state, *others):
        calls.append(state.shape[1])
        if state.shape[1] == len(JOBS):  # noise has been drawn
            raise MemoryError
        return update(state, *others)

    monkeypatch.setattr(evaluation, "update", half_way)
    driver = drive(tiny)
    latents = run(driver, JOBS)
    assert calls[:4] == [3, 1, 1, 1]
    check_the_others(driver, latents, undisturbed)


def test_a_latent_that_cannot_be_decoded_fails_alone(tiny, drive, undisturbed, monkeypatch):
    decode = tiny.decode

    def fussy(states):
        if any(state.trajectory.table.name == "lms" for state in states):
            raise ValueError("not this one")
        return decode(states)

    monkeypatch.setattr(tiny, "decode", fussy)
    driver = drive(tiny, decode_batch=8)
    latents = run(driver, {"bad": {"sampler": "lms", "steps": 4}, **JOBS})
    assert latents["bad"].failure.reason is Reason.WORKER_ERROR
    check_the_others(driver, latents, undisturbed)


def test_prompts_that_cannot_be_encoded_fail_their_job_alone(tiny, drive, undisturbed, monkeypatch):
    encode = tiny.encode

    def fussy(plans):
        if any(plan.parameters.prompt == "poison" for plan in plans):
            raise ValueError("not this one")
        return encode(plans)

    monkeypatch.setattr(tiny, "encode", fussy)
    driver = drive(tiny)
    latents = run(driver, {"bad": {"prompt": "poison"}, **JOBS})
    assert latents["bad"].failure.reason is Reason.WORKER_ERROR
    check_the_others(driver, latents, undisturbed)


def test_prompts_that_could_not_be_encoded_are_not_tried_again(tiny, drive, monkeypatch):
    calls = []

    def fussy(plans):
        calls.append(len(plans))
        raise ValueError("not this one")

    monkeypatch.setattr(tiny, "encode", fussy)
    driver = drive(tiny)
    driver.order("bad", images=2)
    first, second = LatentId("bad", 0), LatentId("bad", 1)
    driver.wish([first], parked=[second])
    driver.engine.round()
    driver.wish([first, second])
    driver.finish()
    assert [latent.stage for latent in driver.outbox.held.latents] == [Stage.STOPPED, Stage.STOPPED]
    assert calls == [1]


def test_a_refused_sampler_fails_its_job_with_the_samplers_reason(tiny, drive, undisturbed):
    driver = drive(tiny)
    latents = run(driver, {"bad": {"sampler": "unheard_of"}, "long": {"steps": 151}, **JOBS})
    assert latents["bad"].failure.reason is Reason.SAMPLER_REFUSED
    assert "unheard_of" in latents["bad"].failure.message
    assert "steps must be 1 to 150" in latents["long"].failure.message
    check_the_others(driver, latents, undisturbed)
