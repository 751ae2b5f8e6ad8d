"""How many model calls a sampler makes is a straight line, or the sampler is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collodion.worker.sampling.catalog import SamplerRefused
from collodion.worker.sampling.counting import COUNTED_AT, line_of


@given(a=st.integers(1, 4), b=st.integers(-1, 8), refused=st.sets(st.sampled_from(COUNTED_AT), max_size=1))
def test_the_line_is_found_from_any_two_numbers_of_steps(a, b, refused):
    def calls(steps):
        if steps in refused:
            raise SamplerRefused("not this many")
        return a * steps + b

    assert line_of("any", calls) == (a, b)


def test_what_is_not_a_line_is_refused_with_the_numbers():
    with pytest.raises(SamplerRefused, match="squared makes model calls in no proportion"):
        line_of("squared", lambda steps: steps**2)


def test_one_number_of_steps_makes_no_line():
    def calls(steps):
        if steps > 2:
            raise SamplerRefused("too many")
        return steps

    with pytest.raises(SamplerRefused, match="too few"):
        line_of("short", calls)
