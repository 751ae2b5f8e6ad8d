"""The command line: what it leaves open on a CPU, and what it refuses."""

import pytest

from collodion.process.config import ConfigError
from engine_bench.columns import COLUMNS
from engine_bench.options import parser, settings_of


def settings(*words):
    return settings_of(parser("").parse_args(["--device", "cpu", *words]))


def test_a_cpu_is_measured_with_models_of_its_size():
    usual = settings()
    assert usual.models == ("shapes", "middle")
    assert usual.dtype == "float32"
    assert (usual.batches, usual.steps, usual.main_steps) == ((), None, None)  # each model has its own


def test_a_quick_run_has_few_cells_and_columns():
    quick = settings("--quick")
    assert quick.models == ("shapes",)
    assert [column.name for column in quick.columns] == ["diffusers", "plain", "auto"]
    assert (quick.batches, quick.steps, quick.main_steps, quick.saturate) == ((1, 8), (), 20, False)


def test_diffusers_own_pipeline_is_the_first_column_wherever_it_was_named():
    assert [column.name for column in settings("--columns", "auto", "diffusers").columns] == ["diffusers", "auto"]


def test_batches_that_are_asked_for_fit_the_model_call():
    assert settings("--batches", "1", "24").most == 24


def test_what_is_compiled_is_measured_alone_unless_more_is_asked_for():
    usual = settings("--most", "32")
    assert usual.most_of(COLUMNS["compile"], (1, 2, 8)) == 1
    assert settings("--most-compiled", "4").most_of(COLUMNS["compile"], (1, 2, 8)) == 4


def test_batches_grow_of_the_columns_that_stand_for_the_others_and_of_those_that_are_named():
    usual = settings("--most", "32")
    assert usual.most_of(COLUMNS["auto"], (1, 2, 8)) == 32
    assert usual.most_of(COLUMNS["int8"], (1, 2, 8)) == 8
    assert settings("--most", "32", "--columns", "int8").most_of(COLUMNS["int8"], (1, 2, 8)) == 32
    assert settings("--most", "32", "--no-saturation").most_of(COLUMNS["auto"], (1, 2, 8)) == 8


@pytest.mark.parametrize("words", [["--batches", "0"], ["--rounds", "-1"], ["--columns", "nothing"]])
def test_what_cannot_be_is_refused(words):
    with pytest.raises(ConfigError):
        settings(*words)
