"""From the wire to protobuf: every enum has its counterpart, and one serialized response serves both streams."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collodion.frontend import convert
from collodion.frontend.metrics import KINDS
from collodion.v1 import generation_pb2, job_pb2
from collodion.wire import jobs, to_frontend

TIMINGS = to_frontend.Timings(1.0, 2.0, 3.0, 6.5)
FAILURE = jobs.Failure(jobs.Reason.CANCELLED, "a client cancelled it")


@pytest.mark.parametrize(
    ("wire", "proto"),
    [
        (convert.STATES, job_pb2.JobState),
        (convert.STAGES, job_pb2.Stage),
        (convert.FORMATS, job_pb2.OutputFormat),
        (convert.POLICIES, job_pb2.DeadlinePolicy),
    ],
)
def test_every_value_of_an_enum_has_its_counterpart(wire, proto) -> None:
    assert sorted(wire.values()) == [number for number in sorted(proto.values()) if number]


@pytest.mark.parametrize(
    ("state", "failure", "event"),
    [
        (jobs.JobState.FINISHED, None, "finished"),
        (jobs.JobState.FAILED, FAILURE, "failed"),
        (jobs.JobState.CANCELLED, FAILURE, "cancelled"),
        (jobs.JobState.CANCELLED, None, "cancelled"),
    ],
)
def test_an_end_is_the_last_event_and_says_which_end(state, failure, event) -> None:
    item = convert.item(to_frontend.JobEvent((1,), "job-1", 5.0, to_frontend.Ended(state, TIMINGS, failure)), b"")
    for response in (generation_pb2.GenerateResponse, generation_pb2.WatchJobResponse):
        told = response.FromString(item.payload).event
        assert told.WhichOneof("event") == event
        assert getattr(told, event).timings.total.nanos == 500_000_000
    assert item.last
    assert item.kind in KINDS


@given(seconds=st.floats(-6e10, 2e11))
def test_moments_keep_their_time_to_the_microsecond(seconds) -> None:
    event = to_frontend.JobEvent((1,), "job-1", seconds, to_frontend.Progressed(0, 1, 2))
    told = generation_pb2.GenerateResponse.FromString(convert.item(event, b"").payload).event
    assert told.event_time.seconds + told.event_time.nanos / 1e9 == pytest.approx(seconds, abs=1e-6, rel=1e-12)
    assert 0 <= told.event_time.nanos < 10**9


def test_a_stored_image_keeps_its_key_to_the_server() -> None:
    stored = jobs.StoredImage(0, 5, "job-1/0.png", "image/png", 8, 8, 100, "abc")
    item = convert.item(to_frontend.JobEvent((1,), "job-1", 5.0, to_frontend.ImageStored(stored)), b"")
    assert item.payload is stored
    assert b"0.png" not in convert.image_ready("job-1", 5.0, stored, None, b"")


@pytest.mark.parametrize(
    ("info", "slo_s", "slo_scale"),
    [
        (to_frontend.TierInfo("interactive", slo_scale=2.5, weight=4), None, 2.5),
        (to_frontend.TierInfo("standard", slo_s=1.5), 1.5, None),
        (to_frontend.TierInfo("batch"), None, None),
    ],
)
def test_a_tier_has_one_default_slo_or_none(info, slo_s, slo_scale) -> None:
    tier = convert.tier(info, is_default=info.name == "standard")
    assert (tier.name, tier.weight, tier.is_default) == (info.name, info.weight, info.name == "standard")
    assert (tier.slo.ToMilliseconds() / 1000 if tier.HasField("slo") else None) == slo_s
    assert (tier.slo_scale if tier.HasField("slo_scale") else None) == slo_scale


def test_an_offer_says_its_moment_and_how_far_off_that_is() -> None:
    offer = convert.counter_offer(to_frontend.CounterOffer(1_000.5, 12, "batch"), now=990.0)
    assert (offer.finish_time.ToMilliseconds(), offer.slo.ToMilliseconds()) == (1_000_500, 10_500)
    assert (offer.steps, offer.tier) == (12, "batch")


def test_what_is_not_offered_is_left_out() -> None:
    offer = convert.counter_offer(to_frontend.CounterOffer(), now=990.0)
    assert offer == job_pb2.CounterOffer()
    assert not offer.HasField("slo")
    assert convert.counter_offer(to_frontend.CounterOffer(989.0), now=990.0).slo.ToMilliseconds() == 0


def test_a_job_that_is_hopeless_failed_by_its_deadline() -> None:
    ended = to_frontend.Ended(jobs.JobState.FAILED, TIMINGS, jobs.Failure(jobs.Reason.HOPELESS, "too late"))
    told = generation_pb2.GenerateResponse.FromString(
        convert.item(to_frontend.JobEvent((1,), "job-1", 5.0, ended), b"").payload
    ).event
    assert (told.failed.failure.code, told.failed.failure.reason) == (4, "HOPELESS")
