"""Batches that are decoded beside the steps, and decoding that waits for pictures to be stored: who is held up, and who is not."""

import msgspec
import pytest

from collodion.wire.jobs import LatentId, Reason, Stage
from collodion.worker.pipeline import Decoded


class Beside:
    """A pipeline whose batches are decoded in pieces, a latent each; one may begin if `allowed`, and is done at the next boundary."""

    def __init__(self, pipeline):
        self._pipeline = pipeline
        self.allowed = True
        self.log = []
        self.raising = lambda states: False

    def __getattr__(self, name):
        return getattr(self._pipeline, name)

    def step(self, states):
        self.log.append("step")
        return self._pipeline.step(states)

    def decode(self, states):
        decoded = self._pipeline.decode(states)
        left = len(states)
        self.log.append(f"decode {left}")

        def advance(hurry):
            nonlocal left
            if self.raising(states):
                raise ValueError("it does not decode")
            if hurry and left:
                self.log.append(f"hurry {left}")
                left = 0
                return False
            if self.allowed and left:
                self.log.append("piece")
                left -= 1
                return False
            return not left

        return Decoded(decoded.span, decoded.pictures, advance)


@pytest.fixture
def beside(tiny):
    return Beside(tiny)


def begin(driver, **steps):
    for number, (job, count) in enumerate(steps.items()):
        driver.order(job, steps=count, sampler="ddim", seed=number)
    driver.wish([LatentId(job, 0) for job in steps])


def rounds(driver, count):
    for _ in range(count):
        assert driver.engine.round()


def test_steps_go_on_while_latents_are_decoded_beside_them(beside, drive):
    driver = drive(beside)
    begin(driver, a=1, b=1, long=9)
    rounds(driver, 6)
    assert beside.log == ["step", "decode 2", "piece", "step", "piece", "step", "step", "step", "step"]
    assert {latent.job for latent in driver.recorder.pictures} == {"a", "b"}
    assert driver.latent(LatentId("long", 0)).stage is Stage.DENOISING


def test_pictures_are_what_they_would_be_between_steps(tiny, beside, drive):
    jobs = {"a": {"seed": 1, "steps": 2}, "b": {"seed": 2, "steps": 4}, "c": {"seed": 3, "steps": 9}}
    ours, expected = drive(beside).draw(jobs), drive(tiny).draw(jobs)
    for job in jobs:
        assert (ours[job] == expected[job]).all()


def test_with_nothing_else_to_do_the_rest_is_decoded_at_once(beside, drive):
    driver = drive(beside)
    beside.allowed = False
    begin(driver, a=1, b=1)
    rounds(driver, 2)
    assert not driver.engine.round()
    assert driver.engine.lanes.rest()
    assert beside.log == ["step", "decode 2", "hurry 2"]
    assert len(driver.recorder.pictures) == 2
    assert not driver.engine.lanes.rest()


def test_when_the_next_batch_is_due_the_first_is_finished_whatever_it_costs(beside, drive):
    driver = drive(beside, decode_batch=2)
    beside.allowed = False
    begin(driver, a=1, b=1, c=2, d=3, long=9)
    rounds(driver, 7)
    decoding = [what for what in beside.log if what != "step"]
    assert decoding == ["decode 2", "hurry 2", "decode 2"]
    assert beside.log.index("hurry 2") > 3
    assert {latent.job for latent in driver.recorder.pictures} == {"a", "b"}


def test_when_another_model_is_stepped_it_is_finished_whatever_it_costs(beside, tiny, drive, spy):
    driver = drive(beside)
    beside.allowed = False
    begin(driver, a=1)
    driver.engine.round()
    other = spy(tiny)
    other.info = msgspec.structs.replace(tiny.info, name="other")
    driver.models.keep("other", other, 0.0)
    driver.order("b", model="other", steps=9, sampler="ddim")
    driver.wish([LatentId("a", 0), LatentId("b", 0)])
    rounds(driver, 4)
    assert beside.log == ["step", "decode 1", "hurry 1"]
    assert {latent.job for latent in driver.recorder.pictures} == {"a"}
    assert other.lanes[-1] == ("step", 1)


def test_one_that_raises_later_fails_alone(beside, drive):
    driver = drive(beside)
    begin(driver, a=1, b=1, long=9)
    driver.engine.round()
    guilty = driver.latent(LatentId("a", 0)).state
    beside.raising = lambda states: guilty in states
    driver.finish()
    assert driver.failures == [Reason.WORKER_ERROR]
    assert {latent.job for latent in driver.recorder.pictures} == {"b", "long"}


def test_one_that_was_dropped_meanwhile_is_not_decoded_again_where_its_batch_raises(beside, drive, caplog):
    driver = drive(beside)
    beside.allowed = False
    begin(driver, a=1, b=1, long=9)
    rounds(driver, 2)
    beside.raising, beside.allowed = lambda states: len(states) > 1, True
    driver.wish([LatentId("b", 0), LatentId("long", 0)])
    driver.finish()
    decoded = [what for what in beside.log if what.startswith("decode")]
    assert decoded == ["decode 2", "decode 1", "decode 1"]  # b and long
    assert not driver.failures
    assert [record.message for record in caplog.records] == ["a batch raised; trying its rows one by one"]
    assert {latent.job for latent in driver.recorder.pictures} == {"b", "long"}


def test_a_model_that_leaves_is_not_decoding_any_more(beside, drive):
    driver = drive(beside)
    beside.allowed = False
    begin(driver, a=1)
    rounds(driver, 2)
    driver.engine.lanes.rest()
    assert driver.latent(LatentId("a", 0)).stage is Stage.DONE


def test_while_pictures_wait_to_be_stored_latents_wait_to_be_decoded_and_others_are_stepped(tiny, drive, spy):
    spied = spy(tiny)
    driver = drive(spied)
    driver.recorder.full = True
    begin(driver, a=1, long=5)
    rounds(driver, 5)
    assert [lane for lane, _ in spied.lanes if lane != "step"] == ["encode"]
    assert driver.latent(LatentId("a", 0)).stage is Stage.DECODING
    assert not driver.engine.round()
    assert not driver.engine.lanes.rest()
    driver.recorder.full = False
    driver.finish()
    assert [lane for lane, _ in spied.lanes].count("decode") == 1
    assert len(driver.recorder.pictures) == 2
