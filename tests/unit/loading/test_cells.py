"""The order of runs."""

from loading.cells import Cell, turns_of

CELLS = (Cell(load=0.9, slo_scale=3.0), Cell(load=1.2, slo_scale=3.0))


def test_every_contender_runs_every_cell_seed_and_repeat_once() -> None:
    turns = turns_of(CELLS, (1, 2), 3, ("a", "b"))
    assert len(turns) == len(set(turns)) == 2 * 2 * 3 * 2


def test_all_contenders_run_a_cell_before_the_next_begins() -> None:
    turns = turns_of(CELLS, (1,), 2, ("a", "b", "c"))
    for begin in range(0, len(turns), 3):
        assert {turn.label for turn in turns[begin : begin + 3]} == {"a", "b", "c"}
        assert len({(turn.cell, turn.repeat) for turn in turns[begin : begin + 3]}) == 1


def test_each_time_another_contender_is_first() -> None:
    turns = turns_of(CELLS, (1,), 3, ("a", "b", "c"))
    assert [turn.label for turn in turns[::3]] == ["a", "b", "c", "a", "b", "c"]


def test_a_cell_says_what_it_is() -> None:
    assert Cell(users=6).label == "6 users"
    assert Cell(load=0.9, slo_scale=3.0).label == "load 0.9, SLO 3 × standalone"
