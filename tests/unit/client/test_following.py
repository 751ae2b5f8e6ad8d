"""The pure half of following a job: whatever breaks, every picture is told once and the end is told last."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collodion.client import requests
from collodion.client.errors import CollodionError, NotFound, ServerUnavailable
from collodion.client.events import Accepted, Event, Finished, ImageReady
from collodion.client.following import Following
from collodion.client.retries import RetryPolicy
from collodion.v1 import generation_pb2, job_pb2
from tests.integration import fake_server as fake

POLICY = RetryPolicy(attempts=1000, initial_s=0, longest_s=0)
BROKEN = ServerUnavailable("broken")


def stream(images: int, chunked: list[bool], from_image: int) -> list[job_pb2.JobEvent]:
    """What a server sends to one that attaches when `from_image` pictures are stored: those again, and then the rest."""
    events = [fake.accepted(images)]
    for index in range(images):
        data = fake.png((index, 0, 0))
        if index >= from_image:
            events.append(fake.progress(4, index))
        if chunked[index]:
            events += [fake.image(index, data, inline=False), *fake.chunks(data, index, 30)]
        else:
            events.append(fake.image(index, data))
    return [*events, fake.finished()]


@settings(deadline=None)
@given(data=st.data(), images=st.integers(1, 4))
def test_any_breaks_give_every_picture_once_and_the_end_last(data: st.DataObject, images: int) -> None:
    chunked = data.draw(st.lists(st.booleans(), min_size=images, max_size=images))
    following = Following(requests.generate("a fox", {}), POLICY, POLICY)
    told: list[Event] = []
    for cut in data.draw(st.lists(st.integers(0, 30), max_size=6)):
        following.next_call()
        for message in stream(images, chunked, len(following.images))[:-1][:cut]:
            told += following.hear(message)
        following.broken(BROKEN)
    call = following.next_call()
    assert isinstance(call, generation_pb2.WatchJobRequest if told else generation_pb2.GenerateRequest)
    for message in stream(images, chunked, len(following.images)):
        told += following.hear(message)
    following.closed()

    assert [event.image.index for event in told if isinstance(event, ImageReady)] == list(range(images))
    assert isinstance(told[0], Accepted)
    assert sum(isinstance(event, Accepted) for event in told) == 1
    assert isinstance(told[-1], Finished)
    assert following.ended


def test_an_error_after_the_end_is_of_no_account() -> None:
    following = Following(requests.watch("x"), POLICY, POLICY)
    for message in (fake.accepted(), fake.finished()):
        list(following.hear(message))
    assert following.broken(BROKEN) == 0


def test_a_job_that_was_never_accepted_cannot_be_lost() -> None:
    following = Following(requests.watch("x"), POLICY, POLICY)
    with pytest.raises(NotFound):
        following.broken(NotFound("no such job"))


def test_a_kind_of_event_that_this_version_does_not_know_is_passed_over() -> None:
    following = Following(requests.watch("x"), POLICY, POLICY)
    assert list(following.hear(job_pb2.JobEvent(job_id="x"))) == []


def test_a_stream_that_just_ends_is_broken() -> None:
    following = Following(requests.watch("x"), POLICY, POLICY)
    with pytest.raises(CollodionError) as caught:
        following.closed()
    assert following.broken(caught.value) == 0
