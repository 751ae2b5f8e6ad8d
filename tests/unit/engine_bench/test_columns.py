"""Columns: what the words of a command line become."""

from dataclasses import fields

import pytest

from collodion.process.config import ConfigError
from collodion.worker.optimize.wishes import Wish, check, wish_for
from engine_bench.columns import COLUMNS, DIFFUSERS, columns_of

_NOT_OPTIMISATIONS = {"dtype", "vae_dtype", "sizes"}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=lambda column: column.name)
def test_the_words_of_every_column_are_settings_of_a_worker(column):
    check(column.words)


def test_plain_has_every_optimisation_off_that_a_worker_knows():
    said = {word.partition("=")[0] for word in COLUMNS["plain"].words}
    assert said == {field.name for field in fields(Wish)} - _NOT_OPTIMISATIONS


@pytest.mark.parametrize(
    ("name", "key"),
    [("compile", "compile"), ("graphs", "cuda_graphs"), ("int8", "quantize"), ("xformers", "attention")],
)
def test_an_optimisation_alone_differs_from_plain_in_one_setting(name, key):
    alone, plain = (wish_for(COLUMNS[column].words, "any") for column in (name, "plain"))
    assert [field.name for field in fields(Wish) if getattr(alone, field.name) != getattr(plain, field.name)] == [key]


def test_auto_is_what_a_user_gets_who_sets_nothing():
    assert wish_for(COLUMNS["auto"].words, "any") == Wish()


def test_a_column_can_be_made_of_words():
    (mine,) = columns_of(["mine:compile=regional,quantize=int8,drift=0.2"])
    assert mine.name == "mine"
    assert mine.words == ("compile=regional", "quantize=int8")
    assert mine.step_cache == 0.2


@pytest.mark.parametrize(
    "words",
    [
        ["nothing"],
        ["mine:speed=much"],
        ["mine:compile=perhaps"],
        ["mine:drift=far"],
        ["plain", "plain"],
        [":compile=off"],
    ],
)
def test_a_column_that_cannot_be_is_refused(words):
    with pytest.raises(ConfigError, match=r"columns|optimize"):
        columns_of(words)


def test_only_one_column_is_not_ours():
    assert [column.name for column in COLUMNS.values() if not column.ours] == [DIFFUSERS]


def test_a_column_says_only_what_it_has_beside_plain():
    assert COLUMNS["compile"].said == "compile=regional"
    assert COLUMNS["plain"].said == "everything off"
    assert COLUMNS["step-cache"].said == "step_cache=on, step cache 0.1"
