"""Several models on one device thread: who is passed over, who takes turns, and when a model may leave."""

import pytest

from collodion.wire.jobs import LatentId, Stage
from collodion.wire.to_worker import ResidencyWish
from collodion.worker.config import WorkerConfig
from collodion.worker.families.simulated import Simulated
from collodion.worker.shelf import Contents, ShelvedModel

FREE = {"simulated_step_ms": ("0",), "simulated_encode_ms": ("0",), "simulated_decode_ms": ("0",)}


class Closing(Simulated):
    """Notes that it was closed, and whether it was asked for anything then."""

    def __init__(self, name):
        super().__init__(name, WorkerConfig(**FREE), 1)
        self.closed = False
        self.calls = []

    def close(self):
        self.closed = True

    def step(self, states):
        assert not self.closed
        self.calls.append(len(states))
        return super().step(states)


class Device:
    """An engine with model `a` resident, and `b` on its shelf."""

    def __init__(self, drive):
        self.pipelines = {name: Closing(name) for name in "ab"}
        self.driver = drive(self.pipelines["a"], **FREE)
        self.models = self.driver.models
        self.models.shelve(Contents(tuple(ShelvedModel(name, one.info, 1) for name, one in self.pipelines.items())))
        self.number = 0

    def wish(self, *names):
        self.number += 1
        self.models.take(ResidencyWish(scheduler="s", worker="me", number=self.number, models=names))
        self.driver.engine.wake()

    def load(self, name):
        assert self.models.next() == name
        self.models.loaded(name, self.pipelines[name], 0.1)
        self.driver.engine.wake()

    def is_closed(self, name):
        """What the loader does between two boundaries, done by hand."""
        self.models.close_released()
        return self.pipelines[name].closed

    def stage(self, job):
        return self.driver.latent(LatentId(job, 0)).stage


@pytest.fixture
def device(drive):
    return Device(drive)


def test_a_latent_whose_model_is_not_in_memory_is_passed_over_though_it_leads(device):
    driver = device.driver
    driver.order("cold", model="b", steps=3)
    driver.order("warm", model="a", steps=3)
    driver.wish([LatentId("cold", 0), LatentId("warm", 0)])
    for _ in range(5):
        driver.engine.round()
    assert device.stage("warm") is Stage.DONE
    assert device.stage("cold") is Stage.WAITING
    device.wish("a", "b")
    device.load("b")
    driver.finish()
    assert device.stage("cold") is Stage.DONE


def test_a_latent_of_a_model_that_the_worker_never_heard_of_fails(device):
    driver = device.driver
    driver.order("odd", model="unheard", steps=3)
    driver.wish([LatentId("odd", 0)])
    driver.engine.round()
    assert "no model 'unheard'" in driver.latent(LatentId("odd", 0)).failure.message


def test_two_models_take_turns_each_in_step_batches_of_its_own(device):
    driver = device.driver
    device.wish("a", "b")
    device.load("b")
    for number in range(4):
        driver.order(f"a{number}", model="a", steps=2, seed=number, sampler="ddim")
        driver.order(f"b{number}", model="b", steps=2, seed=number, sampler="ddim")
    a, b = ([LatentId(f"{name}{number}", 0) for number in range(4)] for name in "ab")
    driver.wish([*a, *b])
    driver.engine.round()
    driver.wish([*b, *a])
    driver.engine.round()
    assert (device.pipelines["a"].calls, device.pipelines["b"].calls) == ([4], [4])
    driver.finish()
    assert (device.pipelines["a"].calls, device.pipelines["b"].calls) == ([4, 4], [4, 4])
    assert all(latent.stage is Stage.DONE for latent in driver.outbox.held.latents)


def test_a_model_leaves_at_the_boundary_at_which_the_last_latent_of_it_is_gone(device):
    driver = device.driver
    driver.order("job", model="a", steps=9)
    driver.wish([LatentId("job", 0)])
    driver.engine.round()
    device.wish("b")
    driver.engine.round()
    assert not device.is_closed("a")
    driver.wish([])
    driver.engine.round()
    assert device.is_closed("a")
    assert not device.models.has("a")


def test_a_model_does_not_leave_before_a_membership_that_holds_later_has_its_turn(device):
    driver = device.driver
    driver.order("job", model="a", steps=4, sampler="ddim")
    job = LatentId("job", 0)
    driver.wish([job])
    driver.engine.round()
    device.wish("b")
    driver.wish([], after=(job, 3))
    driver.engine.round()
    assert not device.is_closed("a")
    driver.engine.round()
    driver.engine.round()
    assert device.is_closed("a")


def test_a_model_that_came_back_draws_what_was_ordered_before(device):
    driver = device.driver
    device.wish("b")
    driver.engine.round()
    assert device.is_closed("a")
    driver.order("job", model="a", steps=2)
    driver.wish([LatentId("job", 0)])
    driver.engine.round()
    assert device.stage("job") is Stage.WAITING
    device.pipelines["a"] = Closing("a")
    device.wish("a")
    device.load("a")
    driver.finish()
    assert device.stage("job") is Stage.DONE
