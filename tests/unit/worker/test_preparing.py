"""Jobs are made ready as soon as their orders are heard of."""

import threading

from collodion.wire.jobs import Parameters
from collodion.wire.to_worker import JobOrder
from collodion.worker.config import WorkerConfig
from collodion.worker.families.simulated import Simulated
from collodion.worker.preparing import Preparer
from collodion.worker.residency import Residents
from collodion.worker.shelf import Contents, ShelvedModel


def order(job: str, model: str = "simulated", steps: int = 2) -> JobOrder:
    return JobOrder(job=job, parameters=Parameters(model, "x", "", 64, 64, steps, "euler", 1.0, 1, 1))


class Prepared:
    def __init__(self) -> None:
        self.models = Residents()
        self.models.keep("simulated", Simulated("simulated", WorkerConfig()), 0.0)
        self.ready = threading.Semaphore(0)
        self.preparer = Preparer(self.models, self.ready.release)

    def wait(self) -> None:
        assert self.ready.acquire(timeout=10)


def test_a_job_that_was_expected_is_ready_when_it_is_asked_for() -> None:
    prepared = Prepared()
    prepared.preparer.expect([order("a")])
    prepared.wait()
    assert prepared.preparer.job(order("a")).plan is not None


def test_a_job_is_the_same_for_as_long_as_its_order_is_repeated() -> None:
    prepared = Prepared()
    prepared.preparer.expect([order("a")])
    first = prepared.preparer.job(order("a"))
    prepared.preparer.expect([order("b"), order("a")])
    assert prepared.preparer.job(order("a")) is first
    prepared.preparer.expect([order("b")])
    assert prepared.preparer.job(order("a")) is not first


def test_another_order_under_the_same_name_is_another_job() -> None:
    prepared = Prepared()
    prepared.preparer.expect([order("a", steps=150)])
    job = prepared.preparer.job(order("a", steps=2))
    prepared.wait()
    prepared.wait()
    assert job.plan is not None
    assert job.plan.course[-1] == 2


def test_an_order_for_a_model_that_is_not_there_fails_its_job() -> None:
    prepared = Prepared()
    job = prepared.preparer.job(order("a", model="other"))
    prepared.wait()
    assert job.failure is not None
    assert "no model 'other'" in job.failure.message


def test_a_job_whose_model_came_before_its_turn_is_made_ready_when_it_is_asked_for() -> None:
    prepared = Prepared()
    other = Simulated("other", WorkerConfig())
    prepared.models.shelve(Contents((ShelvedModel("other", other.info),)))
    prepared.preparer.expect([order("a", model="other"), order("b")])
    prepared.wait()  # for b, and so for a, which comes before it
    prepared.models.loaded("other", other, 0.1)
    prepared.models.turn(())
    job = prepared.preparer.job(order("a", model="other"))
    prepared.wait()
    assert job.plan is not None
