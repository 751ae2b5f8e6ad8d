"""What was made ready runs for the shapes that it was made for; all else is eager, and counted."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from replaying import Notes, Replaying

from collodion.worker.optimize.ready import Ready, Signature

CPU = torch.device("cpu")


def double(tensors):
    return {"doubled": tensors["x"] * 2 + tensors["c"]}


def tensors(rows=2, x=1.0, c=0.0):
    return {"x": torch.full((rows, 3), x), "c": torch.full((rows, 3), c)}


def signed(given, depends_on=None):
    return Signature.of("double", depends_on, given)


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
def ready(notes):
    return Ready(Replaying(), CPU, 1_000, notes)


def test_without_a_maker_every_call_is_eager_and_nothing_is_counted(notes):
    ready = Ready(None, CPU, 0, notes)
    given = tensors()
    assert ready.run(signed(given), double, given)["doubled"].eq(2).all()
    assert ready.size(5) == 5
    assert not ready.make(signed(given), double, given)
    assert not ready.tidy()
    assert notes.fallbacks == []


def test_a_call_whose_shapes_are_not_ready_is_eager_counted_and_made_ready_at_rest(ready, notes):
    given = tensors()
    assert ready.run(signed(given), double, given)["doubled"].eq(2).all()
    assert notes.fallbacks == ["not_ready"]
    assert ready.tidy()
    assert not ready.tidy()
    assert ready.run(signed(given), double, tensors(x=3.0))["doubled"].eq(6).all()
    assert notes.fallbacks == ["not_ready"]
    assert notes.ready == ["captured"]
    assert ready.maker.made[0].replays == 1


def test_what_takes_long_is_not_made_at_rest(notes):
    ready = Ready(Replaying(quick=False), CPU, 1_000, notes)
    given = tensors()
    ready.run(signed(given), double, given)
    assert not ready.tidy()


def test_what_stays_the_same_is_copied_once_for_each_owner(ready):
    class Owner:
        pass

    one, other = Owner(), Owner()
    ready.make(signed(tensors()), double, tensors())

    def run(owner, x, c):
        given = tensors(x=x, c=c)
        return float(ready.run(signed(given), double, given, ("x",), owner)["doubled"][0, 0])

    assert run(one, 1.0, 5.0) == 7.0
    assert run(one, 2.0, -1.0) == 9.0  # said to be as before, so it is
    assert run(other, 2.0, -1.0) == 3.0
    assert run(one, 1.0, 5.0) == 7.0


def test_what_a_failed_call_has_overwritten_is_copied_again(ready):
    class Owner:
        pass

    one, other = Owner(), Owner()
    ready.make(signed(tensors()), double, tensors())
    (replayed,) = ready.maker.made
    ready.run(signed(tensors()), double, tensors(c=5.0), ("x",), one)

    class Short(dict):
        def items(self):
            raise MemoryError

    replayed._function = lambda own: Short()
    with pytest.raises(MemoryError):
        ready.run(signed(tensors()), double, tensors(c=-1.0), ("x",), other)
    replayed._function = double
    assert ready.run(signed(tensors()), double, tensors(c=5.0), ("x",), one)["doubled"].eq(7).all()


def test_what_a_rehearsal_lacked_is_made_ready_in_its_order_and_at_rest_the_newest_first(ready):
    def rows_made():
        return [len(made._own["x"]) for made in ready.maker.made]

    with ready.rehearsal():
        for rows in (4, 2, 1):
            ready.run(signed(tensors(rows)), double, tensors(rows))
    assert rows_made() == [4, 2, 1]
    for rows in (8, 6):
        ready.run(signed(tensors(rows)), double, tensors(rows))
    assert ready.tidy()
    assert rows_made()[3:] == [6]


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, AssertionError, IndexError])
def test_what_cannot_be_made_ready_runs_eagerly_is_said_and_not_tried_again(error, notes, caplog):
    ready = Ready(Replaying(impossible=error), CPU, 1_000, notes)
    given = tensors()
    assert not ready.make(signed(given), double, given)
    assert ready.run(signed(given), double, given)["doubled"].eq(2).all()
    assert notes.fallbacks == ["not_possible"]
    assert not ready.tidy()
    assert "not made ready" in caplog.text


def test_what_was_used_least_recently_leaves_when_the_memory_is_spent(notes):
    ready = Ready(Replaying(), CPU, 250, notes)
    for rows in (1, 2):
        ready.make(signed(tensors(rows)), double, tensors(rows))
    ready.run(signed(tensors(1)), double, tensors(1))
    ready.make(signed(tensors(3)), double, tensors(3))
    assert ready.stock == (2, 200)
    for rows in (1, 3, 2):
        ready.run(signed(tensors(rows)), double, tensors(rows))
    assert notes.fallbacks == ["not_ready"]  # two rows


def test_what_depends_on_something_that_is_no_more_is_forgotten(ready, notes):
    given = tensors()
    for moves in (1, 2):
        ready.make(signed(given, moves), double, given)
    ready.forget("double", lambda moves: moves != 2)
    assert ready.stock.shapes == 1
    ready.run(signed(given, 2), double, given)
    assert notes.fallbacks == []


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (5, 6), (7, 8), (9, 12), (13, 16), (17, 24), (33, 40)])
def test_rows_are_filled_up_to_few_different_numbers(ready, rows, size):
    assert ready.size(rows) == size
    assert size in ready.sizes(rows)
    assert ready.sizes(rows) == sorted(ready.sizes(rows), reverse=True)


def test_where_memory_is_short_what_takes_some_leaves_and_is_made_again_at_rest(ready, notes):
    given = tensors()
    ready.make(signed(given), double, given)
    ready.release()
    assert ready.stock == (0, 0)
    ready.run(signed(given), double, given)
    assert notes.fallbacks == ["not_ready"]
    assert ready.tidy()
    assert ready.stock == (1, 100)
