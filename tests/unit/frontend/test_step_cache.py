"""A request may have a step cache where its model takes one, from 0 (off) to 1."""

import math

import pytest

from collodion.frontend import convert
from collodion.wire.jobs import ModelStatus, Optimization, Residency
from tests.unit.frontend.asking import MODEL, parameters, refused, violations


@pytest.mark.parametrize("asked", [0.0, 0.12, 1.0])
def test_a_step_cache_within_its_range_is_what_was_asked_for_and_is_echoed_so(asked: float) -> None:
    made = parameters(model="artist", step_cache=asked)
    assert made.step_cache == asked  # though it came as a number of 32 bits
    assert convert.parameters_proto(made).step_cache == pytest.approx(asked)


def test_it_is_off_unless_asked_for() -> None:
    assert parameters(model="artist").step_cache == 0.0
    assert math.copysign(1, parameters(model="artist", step_cache=-0.0).step_cache) == 1  # the same request as 0


@pytest.mark.parametrize("asked", [-0.01, 1.01, 100.0, math.nan, math.inf, -math.inf])
def test_a_step_cache_out_of_its_range_is_named(asked: float) -> None:
    said = violations(refused(parameters={"model": "artist", "step_cache": asked}))
    assert list(said) == ["step_cache"]
    assert said["step_cache"].startswith("has to be 0 to 1, not ")


def test_a_step_cache_out_of_its_range_is_named_even_if_the_model_is_not_known() -> None:
    assert list(violations(refused(parameters={"model": "nobody's", "step_cache": 2}))) == ["step_cache"]


def test_a_model_that_takes_none_says_so_and_is_content_with_0() -> None:
    said = violations(refused(parameters={"model": "shapes", "step_cache": 0.1}))
    assert said == {"step_cache": "model shapes takes none; leave it at 0"}
    assert parameters(model="shapes", step_cache=0.0).step_cache == 0.0


def test_clients_are_told_whether_a_model_takes_one_and_what_makes_it_fast() -> None:
    optimizations = (Optimization("attention", "xformers", "32 of 32 attentions"), Optimization("compile", "regional"))
    status = ModelStatus("shapes", Residency.RESIDENT, optimizations=optimizations)
    model = convert.model(MODEL, 1, is_default=True, status=status)
    assert not model.step_cache
    told = [(one.name, one.value, one.detail) for one in model.status.optimizations]
    assert told == [("attention", "xformers", "32 of 32 attentions"), ("compile", "regional", "")]
