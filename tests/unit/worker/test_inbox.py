"""Which of the scheduler's words count."""

import pytest

from collodion.wire.jobs import LatentId
from collodion.wire.to_worker import Membership
from collodion.worker.inbox import Inbox


def membership(scheduler="s", worker="me", number=1, after=None):
    return Membership(scheduler=scheduler, worker=worker, number=number, running=(), after=after)


@pytest.fixture
def inbox():
    return Inbox("me")


def test_before_anything_is_said_nothing_is_held(inbox):
    assert (inbox.newest.scheduler, inbox.newest.number, inbox.newest.running) == ("", 0, ())


def test_the_newest_membership_replaces_older_ones(inbox):
    assert inbox.offer(membership(number=3))
    assert inbox.offer(membership(number=7))
    assert inbox.newest.number == 7


@pytest.mark.parametrize("number", [5, 4, 0, -1])
def test_numbers_that_are_not_above_the_last_are_ignored(inbox, number):
    inbox.offer(membership(number=5))
    assert not inbox.offer(membership(number=number))
    assert inbox.newest.number == 5


def test_what_is_meant_for_another_incarnation_is_ignored(inbox):
    assert not inbox.offer(membership(worker="my predecessor"))
    assert inbox.newest.scheduler == ""


def test_another_scheduler_starts_anew_from_its_first_number(inbox):
    inbox.offer(membership(number=50))
    assert inbox.offer(membership(scheduler="next", number=1))
    assert inbox.newest.scheduler == "next"


def test_a_beat_of_another_scheduler_empties_the_wish(inbox):
    inbox.offer(membership(number=50))
    assert inbox.heard("next")
    assert (inbox.newest.scheduler, inbox.newest.number) == ("next", 0)


def test_a_beat_of_the_same_scheduler_changes_nothing(inbox):
    inbox.offer(membership(number=50))
    newest = inbox.newest
    assert inbox.heard("s")
    assert inbox.newest is newest


def test_a_replaced_scheduler_is_not_heard_again(inbox):
    inbox.offer(membership(number=1))
    inbox.heard("next")
    assert not inbox.heard("s")
    assert not inbox.offer(membership(number=99))
    assert inbox.newest.scheduler == "next"


def test_one_that_names_its_boundary_comes_behind_those_before_it(inbox):
    inbox.heard("s")
    for number in (1, 2):
        inbox.offer(membership(number=number, after=(LatentId("job", 0), 3)))
    assert [wish.number for wish in inbox.wishes] == [0, 1, 2]
    inbox.offer(membership(number=3))
    assert [wish.number for wish in inbox.wishes] == [3]


def test_what_waits_is_forgotten_with_its_scheduler(inbox):
    inbox.offer(membership(number=1, after=(LatentId("job", 0), 3)))
    inbox.heard("next")
    assert [(wish.scheduler, wish.number) for wish in inbox.wishes] == [("next", 0)]
