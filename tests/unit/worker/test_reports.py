"""What the scheduler is told, and what is not said twice."""

import pytest

from collodion.wire.jobs import LatentId, Parameters, Stage
from collodion.wire.to_worker import JobOrder
from collodion.worker.config import WorkerConfig
from collodion.worker.holdings import Held
from collodion.worker.latent import Latent, WorkerJob
from collodion.worker.outbox import Sample
from collodion.worker.reports import Reporter
from collodion.worker.residency import Residents


@pytest.fixture
def reporter():
    return Reporter("me", WorkerConfig(encode_batch=3, decode_batch=2), "cpu", "cpu: a fast one", Residents())


@pytest.fixture
def latent():
    parameters = Parameters("m", "", "", 8, 8, 4, "euler", 1.0, 1, 1)
    return Latent(LatentId("job", 0), WorkerJob(JobOrder(job="job", parameters=parameters), None))


def tell(reporter, held, samples=()):
    report = reporter.report(held, samples)
    if report is not None:
        reporter.told(held, report)
    return report


def test_a_report_says_what_changed_since_the_last(reporter, latent):
    held = Held("scheduler", 3, (latent,))
    first = tell(reporter, held)
    assert (first.scheduler, first.membership, [said.id for said in first.latents]) == ("scheduler", 3, [latent.id])
    assert tell(reporter, held) is None
    latent.evaluations = 1
    assert [said.evaluations for said in tell(reporter, held).latents] == [1]
    latent.stage = Stage.DECODING
    assert [said.stage for said in tell(reporter, held).latents] == [Stage.DECODING]
    assert tell(reporter, held) is None


def test_a_report_says_how_old_the_boundary_is(reporter, latent):
    assert reporter.report(Held("scheduler", 3, (latent,)), (), age_s=0.25).age_s == 0.25


def test_what_the_socket_did_not_take_is_said_again(reporter, latent):
    held = Held("scheduler", 3, (latent,))
    assert reporter.report(held, ()) == reporter.report(held, ())


def test_a_new_membership_is_confirmed_even_if_nothing_else_changed(reporter, latent):
    tell(reporter, Held("scheduler", 3, (latent,)))
    confirmed = tell(reporter, Held("scheduler", 4, (latent,)))
    assert (confirmed.membership, confirmed.latents) == (4, ())


def test_what_batches_cost_is_worth_a_report(reporter):
    held = Held("scheduler", 3)
    tell(reporter, held)
    report = tell(reporter, held, [Sample("step", "m", "m/8x8", 2, 0.5, 1, 0.001)])
    assert [(lane.lane, lane.key, lane.batch, lane.seconds) for lane in report.lanes] == [("step", "m/8x8", 2, 0.5)]


def test_missing_orders_are_reported_though_a_state_confirmed_the_membership_before(reporter):
    held = Held("scheduler", 3, (), ("stranger",))
    reporter.told(held, reporter.state(held))
    assert tell(reporter, held).missing == ("stranger",)
    assert tell(reporter, held) is None


def test_a_state_says_everything_every_time(reporter, latent):
    held = Held("scheduler", 3, (latent,))
    tell(reporter, held)
    state = reporter.state(held)
    assert [said.id for said in state.latents] == [latent.id]
    assert state == reporter.state(held)


def test_a_state_says_what_the_planner_has_to_know_of_the_device(reporter):
    state = reporter.state(Held())
    assert (state.device, state.device_kind, state.encode_batch, state.decode_batch) == ("cpu", "cpu: a fast one", 3, 2)
