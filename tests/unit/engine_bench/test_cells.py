"""Cells: their order, their figures, and when a batch is large enough."""

import pytest

from engine_bench.cells import Cell, Samples, cells_of, saturated


def test_the_smallest_and_the_largest_batch_come_first():
    assert cells_of([8, 2, 1, 4], 50, [20, 50], crossed=False) == [
        Cell(1, 50),
        Cell(8, 50),
        Cell(2, 50),
        Cell(4, 50),
        Cell(1, 20),
    ]


def test_crossed_cells_are_all_batches_with_all_steps():
    cells = cells_of([1, 2], 20, [20, 30, 50], crossed=True)
    assert sorted(cells) == [Cell(batch, steps) for batch in (1, 2) for steps in (20, 30, 50)]


@pytest.mark.parametrize(
    ("speeds", "is_it"),
    [
        ({1: 10.0, 2: 10.4}, True),
        ({1: 10.0, 2: 10.6}, False),
        ({1: 10.0, 2: 19.0, 4: 19.1}, True),
        ({1: 10.0, 2: 9.0, 4: 18.0}, False),
        ({1: 10.0, 8: 10.0}, False),
        ({1: 10.0}, False),
        ({}, False),
    ],
)
def test_a_batch_is_saturated_when_twice_as_many_give_less_than_a_twentieth_more(speeds, is_it):
    assert saturated(speeds) is is_it


def samples(*total_s):
    made = Samples()
    for each in total_s:
        made.add(each, 10.0, [])
    return made


def test_figures_are_medians_and_ratios_of_the_same_rounds():
    figures = samples(1.0, 4.0, 2.0).figures(Cell(4, 20), samples(3.0, 4.0, 4.0), floor_s=0.5)
    assert figures["image_s"] == 0.5
    assert figures["images_per_s"] == 2.0
    assert figures["share_of_floor"] == 0.25
    assert figures["speedup"] == {"median": 2.0, "least": 1.0, "most": 3.0, "runs": 3}


def test_there_is_no_ratio_to_a_column_that_lacks_rounds():
    assert "speedup" not in samples(1.0, 1.0).figures(Cell(1, 20), samples(3.0), floor_s=None)


def test_gaps_are_known_only_where_the_column_knows_them():
    with_gaps = Samples()
    with_gaps.add(1.0, 10.0, [0.0, 0.01, 0.02])
    assert with_gaps.figures(Cell(1, 20), None, None)["gap"] == 0.01
    assert "gap" not in samples(1.0).figures(Cell(1, 20), None, None)
