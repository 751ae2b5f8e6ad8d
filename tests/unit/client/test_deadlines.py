"""How deadlines read."""

import datetime

import pytest

from collodion.client.cli.deadlines import clock, kept, span, standing
from collodion.client.events import Finished
from collodion.client.jobs import Job, Timings
from collodion.v1 import job_pb2
from tests.integration import fake_server as fake

NOW = datetime.datetime(2026, 11, 21, 12, 0, tzinfo=datetime.UTC)
TIMINGS = Timings(0, 1, 0, 1)


@pytest.mark.parametrize(
    ("seconds", "read"),
    [
        (0, "0 s"),
        (0.04, "0 s"),
        (3.25, "3.2 s"),
        (59.9, "59.9 s"),
        (60, "1 min"),
        (90.4, "1 min 30 s"),
        (3600, "1 h"),
        (7_500, "2 h 5 min"),
        (30 * 86_400, "720 h"),
    ],
)
def test_a_length_of_time_reads_in_at_most_two_units(seconds: float, read: str) -> None:
    assert span(seconds) == read


def test_a_time_of_another_day_has_its_date() -> None:
    now = datetime.datetime.now().astimezone()
    assert len(clock(now)) == len("12:34:56")
    assert clock(now - datetime.timedelta(days=2)).startswith(str((now - datetime.timedelta(days=2)).date()))


def test_of_a_job_without_deadline_and_prediction_there_is_nothing_to_say() -> None:
    assert standing(Job.of(fake.job()), NOW) == ""
    assert kept(Job.of(fake.job()), Finished("x", NOW, TIMINGS, deadline_met=True)) == ""


@pytest.mark.parametrize(("met", "said"), [(True, "its deadline was met"), (False, "its deadline was missed")])
def test_a_job_that_ended_says_what_came_of_its_deadline(met: bool, said: str) -> None:
    ended = Job.of(fake.job(deadline={"seconds": 5}, deadline_met=met, state=job_pb2.JOB_STATE_FINISHED))
    assert standing(ended, NOW) == said
    assert kept(ended, Finished("x", None, TIMINGS, deadline_met=met)) == said
