"""Loading beside the device thread: what becomes of a shelf that raises, and of steps while it takes its time."""

import threading

import pytest

from collodion.process.config import ConfigError
from collodion.wire.jobs import LatentId, Residency, Stage
from collodion.wire.to_worker import ResidencyWish
from collodion.worker.config import WorkerConfig
from collodion.worker.families.simulated import Simulated
from collodion.worker.loader import Loader
from collodion.worker.metrics import WorkerMetrics
from collodion.worker.residency import Residents
from collodion.worker.shelf import Contents, ShelvedModel

BOUND_S = 20
FREE = {"simulated_step_ms": ("0",), "simulated_encode_ms": ("0",), "simulated_decode_ms": ("0",)}


class OneModel:
    """A shelf with one model, whose loading waits until it is let go, or raises."""

    def __init__(self, error=None):
        self.error = error
        self.began, self.let_go = threading.Event(), threading.Event()

    def look(self):
        if self.error is OSError:
            raise OSError("the directory is gone")
        return Contents((ShelvedModel("late", Simulated("late", WorkerConfig()).info, 1),))

    def load(self, name, progress):
        self.began.set()
        assert self.let_go.wait(BOUND_S)
        progress(0.5)
        if self.error is not None:
            raise self.error
        return Simulated(name, WorkerConfig(**FREE), 1)


def wish(*names, number=1):
    return ResidencyWish(scheduler="scheduler", worker="me", number=number, models=names)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "the model late does not fit the device's memory"),
        (ConfigError("model 'late': its index is broken"), "model 'late': its index is broken"),
        (RuntimeError("odd"), "RuntimeError: odd"),
    ],
)
def test_a_model_that_raises_fails_with_a_sentence_and_the_next_one_is_loaded(error, reason):
    shelf, models = OneModel(error), Residents()
    shelf.let_go.set()
    loader = Loader(shelf, models, 1.0, WorkerMetrics())
    loader.look()
    models.take(wish("late"))
    loader.load(models.next())
    status = models.standing().statuses[0]
    assert (status.residency, status.reason) == (Residency.FAILED, reason)
    shelf.error = None
    models.take(wish("late", number=2))
    loader.load(models.next())
    assert models.turn(()).arrived == ("late",)


def test_a_shelf_that_cannot_be_looked_through_leaves_what_was_known(caplog):
    shelf, models = OneModel(), Residents()
    loader = Loader(shelf, models, 1.0, WorkerMetrics())
    loader.look()
    shelf.error = OSError
    loader.look()
    assert [status.name for status in models.standing().statuses] == ["late"]
    assert "could not be looked through" in caplog.text


def test_a_loading_that_nobody_wants_any_more_is_broken_off(caplog):
    shelf, models = OneModel(), Residents()
    shelf.let_go.set()
    loader = Loader(shelf, models, 1.0, WorkerMetrics())
    loader.look()
    models.take(wish("late"))
    name = models.next()
    models.take(wish(number=2))
    loader.load(name)
    assert models.standing().statuses[0].residency is Residency.ON_DISK


def test_steps_go_on_while_a_model_is_loaded_and_its_latents_join_when_it_is_there(drive):
    """The load begins, waits for this test, and ends; all the while rounds go on, and none of them waits for it."""
    shelf = OneModel()
    driver = drive(Simulated("here", WorkerConfig(**FREE)), **FREE)
    arrived = threading.Event()
    loader = Loader(shelf, driver.models, 100.0, WorkerMetrics())
    driver.models._on_due = arrived.set
    loader.look()
    loader.start()
    driver.order("long", model="here", steps=100, width=64)
    driver.order("waits", model="late", steps=2)
    driver.models.take(wish("here", "late"))
    driver.wish([LatentId("waits", 0), LatentId("long", 0)])
    assert shelf.began.wait(BOUND_S)
    for _ in range(50):
        driver.engine.round()
    assert driver.latent(LatentId("long", 0)).evaluations == 50
    assert driver.latent(LatentId("waits", 0)).stage is Stage.WAITING
    arrived.clear()
    shelf.let_go.set()
    assert arrived.wait(BOUND_S)
    driver.engine.wake()
    driver.finish()
    assert [latent.stage for latent in driver.outbox.held.latents] == [Stage.DONE] * 2
    loader.close()


class Noting:
    """A shelf of two models that do not fit together; notes who was loaded and closed, in order."""

    def __init__(self, closing=None):
        self.noted = []
        self.closing = closing
        self.loaded = threading.Semaphore(0)

    def look(self):
        return Contents(tuple(ShelvedModel(name, Simulated(name, WorkerConfig()).info, 1) for name in "ab"))

    def load(self, name, progress):
        self.noted.append(f"load {name}")
        pipeline = Simulated(name, WorkerConfig(**FREE), 1)
        pipeline.close = lambda: self._close(name)
        self.loaded.release()
        return pipeline

    def _close(self, name):
        self.noted.append(f"close {name}")
        if self.closing is not None:
            raise self.closing


@pytest.mark.parametrize("closing", [None, RuntimeError("it cannot be closed")])
def test_the_memory_of_a_model_that_left_is_given_back_before_the_next_one_is_loaded(closing, caplog):
    due = threading.Semaphore(0)
    shelf, models = Noting(closing), Residents(budget_bytes=1, on_due=due.release)
    loader = Loader(shelf, models, 100.0, WorkerMetrics())
    loader.look()
    loader.start()
    for number, name in enumerate("ab", start=1):
        models.take(wish(name, number=number))
        models.release(models.turn(()).left)  # the boundary at which the one before leaves
        assert shelf.loaded.acquire(timeout=BOUND_S)
        while not models.has(name):
            assert due.acquire(timeout=BOUND_S)
            models.turn(())
    assert shelf.noted == ["load a", "close a", "load b"]
    assert ("could not be closed" in caplog.text) == (closing is not None)
    loader.close()
