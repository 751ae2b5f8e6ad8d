"""Medians, ranges and ratios."""

import dataclasses
import math
from pathlib import Path

import pytest

from loading.cells import Cell
from loading.live import live_figures
from loading.outcomes import Run
from loading.plots import plot
from loading.tables import cell_table, ratios, replay_table, rows_of, spread

FIVE, SIX = Cell(users=5), Cell(users=6)
OPEN = Cell(load=0.9, slo_scale=3.0)


def run(label: str, cell: Cell, repeat: int, replayed: bool = False, **figures: float) -> Run:
    return Run(label, cell, 1, repeat, figures, (), replayed)


def test_rows_stand_in_the_order_of_the_first_cell_whoever_began_later_ones() -> None:
    runs = [run("a", FIVE, 0), run("b", FIVE, 0), run("b", SIX, 0), run("a", SIX, 0)]
    assert [(row.cell, row.label) for row in rows_of(runs)] == [(FIVE, "a"), (FIVE, "b"), (SIX, "a"), (SIX, "b")]


def test_a_replay_stands_behind_what_it_replays() -> None:
    runs = [run("a", OPEN, 0), run("a", OPEN, 0, replayed=True), run("b", OPEN, 0), run("b", OPEN, 0, replayed=True)]
    assert [(row.label, row.replayed) for row in rows_of(runs)] == [
        ("a", False),
        ("a", True),
        ("b", False),
        ("b", True),
    ]


def test_ratios_are_between_runs_of_one_turn() -> None:
    # The machine was half as fast the second time, for both.
    runs = [run("a", FIVE, 0, x=1.0), run("b", FIVE, 0, x=2.0), run("a", FIVE, 1, x=2.0), run("b", FIVE, 1, x=4.0)]
    first, second = rows_of(runs)
    assert ratios(second, first, "x") == [2.0, 2.0]


def test_what_is_not_a_number_is_left_out() -> None:
    (row,) = rows_of([run("a", FIVE, 0, x=math.nan), run("a", FIVE, 1, x=3.0)])
    assert row.values("x") == [3.0]
    assert math.isnan(row.median("y"))


def test_a_spread_is_a_median_and_its_range() -> None:
    assert spread([3.0, 1.0, 2.0], ".1f") == "2.0 (1.0 to 3.0)"
    assert spread([1.5], ".1f") == "1.5"
    assert spread([], ".1f") == "–"


def test_a_closed_loop_is_compared_with_the_first_contender() -> None:
    runs = [
        run("static", FIVE, 0, latency_mean=2.0, images_per_s=1.0),
        run("slack", FIVE, 0, latency_mean=1.5, images_per_s=1.2),
    ]
    table = cell_table(rows_of(runs))
    assert "latency / static" in table.splitlines()[0]
    assert "0.75" in table.splitlines()[-1]
    assert "1.20" in table.splitlines()[-1]


def test_a_replay_is_told_as_a_share_of_what_was_real() -> None:
    figures = dict.fromkeys(("goodput", "attainment", "latency_p50", "latency_p95", "latency_p99"), 2.0)
    real = run("slack", OPEN, 0, **figures)
    replay = dataclasses.replace(real, replayed=True, figures=dict.fromkeys(figures, 1.9))
    assert replay_table(rows_of([real, replay])).splitlines()[-1].count("0.95") == 5


@pytest.mark.parametrize("cells", [(FIVE, SIX), (OPEN, Cell(load=1.2, slo_scale=3.0), Cell(load=0.9, slo_scale=5.0))])
def test_a_plot_is_drawn_of_whatever_figures_there_are(cells: tuple[Cell, ...], tmp_path: Path) -> None:
    figures = {"latency_mean": 1.0, "latency_p95": 1.0, "images_per_s": 2.0, "goodput": 1.0, "attainment": 0.5}
    runs = [run(label, cell, 0, replayed, **figures) for cell in cells for label in "ab" for replayed in (False, True)]
    assert plot(rows_of(runs), tmp_path / "plot.png").stat().st_size > 1000


def test_before_the_first_reply_there_is_nothing_to_say() -> None:
    assert live_figures([]) == ""
