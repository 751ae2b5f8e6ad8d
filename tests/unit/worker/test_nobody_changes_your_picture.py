"""Any schedule of joins, leaves, parks and neighbours gives each latent the picture that it has alone."""

import collections
import functools
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collodion.wire.jobs import LatentId, Stage
from collodion.worker.families.device import Device
from collodion.worker.sampling.probing import probe

JOBS = {
    "a": {"sampler": "euler_a", "steps": 5, "guidance_scale": 6.0, "seed": 1},
    "b": {"sampler": "ddim", "steps": 3, "guidance_scale": 1.0, "seed": 2, "prompt": "a green square"},
    "c": {"sampler": "heun", "steps": 4, "guidance_scale": 3.0, "seed": 3, "negative_prompt": "blue"},
    "d": {"sampler": "pndm", "steps": 6, "guidance_scale": 7.5, "seed": 4, "prompt": ""},
    "e": {"sampler": "dpmpp_2m_sde", "steps": 7, "guidance_scale": 1.0, "seed": 5},
    "f": {"sampler": "unipc", "steps": 2, "guidance_scale": 9.0, "seed": 6, "prompt": "two yellow triangles"},
    "g": {"sampler": "lms", "steps": 1, "guidance_scale": 2.0, "seed": 7},
}
MOST_AT_ONCE = 5


@st.composite
def schedules(draw):
    """Some rounds each with who is in line, how wide its windows are, and who is parked; the others are not held."""
    wish = st.tuples(
        st.lists(st.sampled_from(sorted(JOBS)), unique=True),
        st.lists(st.integers(1, MOST_AT_ONCE), min_size=len(JOBS), max_size=len(JOBS)),
        st.sets(st.sampled_from(sorted(JOBS))),
        st.integers(1, 4),
    )
    return draw(st.lists(wish, min_size=1, max_size=6))


def names(jobs):
    return [LatentId(job, 0) for job in jobs]


def run_schedule(driver, schedule):
    """Follows it, then lets everybody finish. Returns the pictures."""
    for job, fields in JOBS.items():
        driver.order(job, **fields)
    for running, caps, parked, rounds in schedule:
        driver.wish(names(running), names(parked - set(running)), caps[: len(running)])
        for _ in range(rounds):
            driver.engine.round()
    driver.wish(names(sorted(JOBS)))
    driver.finish()
    assert all(latent.stage is Stage.DONE for latent in driver.outbox.held.latents), driver.failures
    return {latent.job: picture for latent, picture in driver.recorder.pictures.items()}


def bounds(pipeline):
    return {"max_batch": MOST_AT_ONCE, "decode_batch": 2, "encode_batch": 2}


@pytest.fixture(scope="module")
def alone(drive, spy):
    """Pictures and latents of each job run with nobody else."""

    @functools.cache
    def draw(pipeline):
        spied = spy(pipeline)
        pictures = {}
        for job, fields in JOBS.items():
            pictures |= drive(spied, **bounds(pipeline)).draw({job: fields})
        return pictures, spied.latents

    return draw


quick = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(quick, max_examples=20)
@given(schedule=schedules(), run_ahead=st.integers(0, 2))
def test_a_picture_in_company_is_the_picture_alone(schedule, run_ahead, tiny, drive, spy, alone):
    pictures, latents = alone(tiny)
    spied = spy(tiny)
    spied.run_ahead = run_ahead  # as on a GPU, whose results are looked at later than they are asked for
    crowd = run_schedule(drive(spied, **bounds(tiny)), schedule)
    for job, fields in JOBS.items():
        expected = latents[fields["seed"]]
        error = (spied.latents[fields["seed"]] - expected).abs().max() / expected.abs().max()
        assert float(error) < 1e-4
        assert np.abs(crowd[job].astype(int) - pictures[job]).max() <= 1


@settings(quick, max_examples=12)
@given(schedule=schedules())
def test_reproducible_pictures_are_the_same_bit_for_bit(schedule, reproducible_tiny, drive, spy, alone):
    pictures, latents = alone(reproducible_tiny)
    spied = spy(reproducible_tiny)
    crowd = run_schedule(drive(spied, **bounds(reproducible_tiny)), schedule)
    for job, fields in JOBS.items():
        assert bool((spied.latents[fields["seed"]] == latents[fields["seed"]]).all())
        assert (crowd[job] == pictures[job]).all()


class Elsewhere(Device):
    """A device with a host that is not itself: what was moved to it is of no use where it was."""

    moves: ClassVar = collections.Counter()

    def to_host(self, tensor):
        if not tensor.is_floating_point():
            return tensor  # of a picture
        self.moves["to host"] += 1
        copy = tensor.clone()
        tensor.fill_(torch.nan)
        return copy

    def to_device(self, tensor):
        self.moves["to device"] += 1
        return tensor.clone()


@settings(quick, max_examples=12)
@given(schedule=schedules(), run_ahead=st.integers(0, 1))
def test_a_latent_that_was_spilled_draws_the_same_picture_bit_for_bit(schedule, run_ahead, tiny, drive, spy):
    runs = []
    for parked_mib in (512, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiny, "_device", Elsewhere(tiny._device.place, tiny._device.dtype))
            spied = spy(tiny)
            spied.run_ahead = run_ahead
            pictures = run_schedule(drive(spied, parked_mib=parked_mib, **bounds(tiny)), schedule)
            runs.append((pictures, spied.latents))
    (kept, kept_latents), (spilled, spilled_latents) = runs
    for job, fields in JOBS.items():
        assert (kept[job] == spilled[job]).all()
        assert bool((kept_latents[fields["seed"]] == spilled_latents[fields["seed"]]).all())


def test_what_is_spilled_is_really_moved(tiny, drive, monkeypatch):
    elsewhere = Elsewhere(tiny._device.place, tiny._device.dtype)
    elsewhere.moves.clear()
    monkeypatch.setattr(tiny, "_device", elsewhere)
    driver = drive(tiny, parked_mib=0)
    driver.order("job", images=2, steps=5)
    first, second = LatentId("job", 0), LatentId("job", 1)
    driver.wish([first, second])
    driver.engine.round()
    driver.wish([first], parked=[second])
    driver.engine.round()
    assert elsewhere.moves["to host"] == 1  # its own tensor; the prompts are still read by the first image
    driver.wish([], parked=[first, second])
    driver.engine.round()
    assert elsewhere.moves["to host"] == 4  # the other one's, and both prompts
    driver.wish([first, second])
    driver.finish()
    assert {latent.stage for latent in driver.outbox.held.latents} == {Stage.DONE}


@settings(quick, max_examples=8)
@given(schedule=schedules(), run_ahead=st.integers(0, 2))
def test_the_evaluations_run_are_those_of_the_samplers_table(schedule, run_ahead, tiny, drive, spy):
    spied = spy(tiny)
    spied.run_ahead = run_ahead
    run_schedule(drive(spied, **bounds(tiny)), schedule)
    config = tiny._architecture.pipeline.scheduler.config
    for fields in JOBS.values():
        assert spied.evaluations[fields["seed"]] == len(probe(fields["sampler"], fields["steps"], config))
