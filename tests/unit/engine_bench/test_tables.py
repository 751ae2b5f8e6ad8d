"""Tables and the plot: everything that was asked for is in them, measured or not."""

import json

import pytest

from engine_bench.cells import Cell, Samples
from engine_bench.plots import colours_of, plot
from engine_bench.results import Results
from engine_bench.tables import grid, text_of


def cell(column, batch, total_s, group=0):
    samples, theirs = Samples(), Samples()
    for factor in (0.9, 1.0, 1.1):
        samples.add(total_s * factor, 20 / total_s, [0.004])
        theirs.add(2.0 * factor, 10.0, [])
    figures = samples.figures(Cell(batch, 20), None if column == "diffusers" else theirs, floor_s=0.5)
    return {"column": column, "batch": batch, "steps": 20, "group": group, **figures}


@pytest.fixture
def figures():
    ready = {"ready_s": {"captured": 3.25}, "shapes": {"captured": 5}, "fallbacks": {}, "recompilations": 0}
    auto = {
        "said": "nothing set",
        "weight_bytes": 2_000_000,
        "start_s": 4.5,
        "at_start": ready,
        "at_end": {**ready, "fallbacks": {"not_ready": 2}, "recompilations": 1},
        "likeness": {"latent_error": 0.012, "psnr_db": None},
        "optimizations": [["graphs", "on", "5 captured"]],
    }
    model = {
        "model": "sd15",
        "pipeline": "StableDiffusionPipeline",
        "weights": "random",
        "size": [512, 512],
        "sampler": "euler",
        "guidance_scale": 7.5,
        "main_steps": 20,
        "work": {"call_flops": 1.6e12, "ends_flops": 2e12},
        "columns": {
            "diffusers": {"said": "diffusers' own pipeline", "weight_bytes": 2_000_000},
            "auto": auto,
            "xformers": {"said": "attention=xformers", "refused": "xFormers is not installed"},
        },
        "cells": [cell("diffusers", 1, 2.0), cell("auto", 1, 1.0), cell("diffusers", 1, 9.0, group=1)],
        "strangers": [],
        "profiles": {},
        "left_out": [["fp8: all", "no time was left"]],
    }
    head = {"device": "some GPU", "dtype": "bfloat16", "rounds": 3, "clock": "wall", "matrix_rates": {"8192": 7.1e14}}
    return {**head, "models": [model]}


def test_a_column_that_is_refused_is_in_the_table_with_its_reason(figures):
    assert "REFUSED: xFormers is not installed" in text_of(figures)


def test_what_was_not_measured_is_listed(figures):
    assert "fp8: all: no time was left" in text_of(figures)


def test_a_column_says_what_it_took_and_what_went_wrong(figures):
    (line,) = [line for line in text_of(figures).splitlines() if line.startswith("auto ")]
    assert line.split()[:8] == ["auto", "4.5", "3.2", "5", "captured", "2", "1.2e-02", "equal"]
    assert "not_ready 2 recompiled 1" in line
    assert line.endswith("graphs=on: 5 captured")


def test_a_cell_is_compared_with_diffusers_of_the_same_rounds(figures):
    (line,) = [line for line in text_of(figures).splitlines() if "  auto" in line and "0.40 %" in line]
    assert line.split() == ["1", "20", "auto", "1.000", "1", "20", "2.00", "2.00-2.00", "50", "%", "0.40", "%", "0"]


def test_of_columns_that_came_later_diffusers_own_is_not_shown_again(figures):
    assert "9.000" not in text_of(figures)


def test_numbers_stand_to_the_right_and_words_to_the_left():
    assert grid([("name", "s"), ("a", "10.5"), ("bcdef", "-")]) == "name      s\na      10.5\nbcdef     -"


def test_the_plot_is_drawn_of_what_there_is(figures, tmp_path):
    assert plot([{**figures["models"][0], "cells": []}], tmp_path / "none.png") is None
    drawn = plot(figures["models"], tmp_path / "some.png")
    assert drawn is not None
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_no_two_columns_have_one_colour():
    names = ["diffusers", "auto", *(f"column {number}" for number in range(14))]
    assert len({str(colour) for colour in colours_of(names).values()}) == len(names)


def test_what_was_measured_is_on_the_disk_whenever_it_is_saved(figures, tmp_path):
    results = Results(tmp_path / "new", {"cpu": "some"})
    results.figures |= figures
    results.save()
    assert json.loads((tmp_path / "new" / "engine.json").read_text())["figures"]["models"][0]["model"] == "sd15"
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["engine.json"]
