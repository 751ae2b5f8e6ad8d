"""A window of 77 with the tokens of a made-up language: 1 is the comma, 10 and more are words."""

from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from collodion.worker.prompting.chunks import Unit, Window
from collodion.worker.prompting.embeddings import Embedding

COMMA = 1


class Language:
    bos_token_id, eos_token_id, pad_token_id = 2, 3, 0

    def __call__(self, text: str, **_: Any) -> Any:
        assert text == ","
        return SimpleNamespace(input_ids=[COMMA])


WINDOW = Window(Language(), 77, 0)


def words(count: int, first: int = 10) -> list[Unit]:
    return [Unit(first + number, 1.0) for number in range(count)]


def vectors(count: int) -> Unit:
    return Unit(0, 1.0, Embedding("x", (torch.ones(count, 4),), "digest"))


def lengths(*sections: list[Unit]) -> list[int]:
    return [sum(unit.length for unit in units) for units in WINDOW.cut(sections)]


def test_a_text_of_75_tokens_is_one_chunk_and_one_more_is_another() -> None:
    assert lengths([]) == [0]
    assert lengths(words(75)) == [75]
    assert lengths(words(76)) == [75, 1]
    assert lengths(words(160)) == [75, 75, 10]


def test_a_text_is_cut_after_its_last_comma_if_that_is_near() -> None:
    comma = [Unit(COMMA, 1.0)]
    assert lengths(words(40) + comma + words(14) + comma + words(30)) == [56, 30]
    assert lengths(words(55) + comma + words(20)) == [56, 20]
    assert lengths(words(54) + comma + words(21)) == [75, 1]
    assert lengths(words(74) + comma + words(5)) == [75, 5]


def test_a_comma_that_does_not_fit_is_no_reason_to_cut_sooner() -> None:
    comma = [Unit(COMMA, 1.0)]
    assert lengths(words(70) + comma + words(4) + comma + words(3)) == [75, 4]


def test_a_section_begins_a_new_chunk_even_if_empty_but_for_the_last() -> None:
    assert lengths(words(3), words(4)) == [3, 4]
    assert lengths([], words(4)) == [0, 4]
    assert lengths(words(3), [], words(4)) == [3, 0, 4]
    assert lengths(words(3), []) == [3]
    assert lengths([], []) == [0]


def test_vectors_of_an_embedding_stay_together() -> None:
    assert lengths([*words(70), vectors(5)]) == [75]
    assert lengths([*words(71), vectors(5), *words(1)]) == [71, 6]
    assert lengths([vectors(75), vectors(75)]) == [75, 75]


def test_a_smaller_window_looks_for_commas_in_proportion() -> None:
    small = Window(Language(), 24, 0)
    comma = [Unit(COMMA, 1.0)]
    assert [len(chunk) for chunk in small.cut([words(16) + comma + words(6)])] == [17, 6]
    assert [len(chunk) for chunk in small.cut([words(14) + comma + words(8)])] == [22, 1]


def test_a_chunk_is_begun_ended_and_filled() -> None:
    (chunk,) = WINDOW.chunks([[Unit(10, 1.0), vectors(2), Unit(11, 1.5)]])
    assert chunk.ids == (2, 10, WINDOW.stand_in, WINDOW.stand_in, 11, 3, *[0] * 71)
    assert chunk.read == 6
    assert chunk.weights == (1.0, 1.0, 1.0, 1.0, 1.5, *[1.0] * 72)
    (insert,) = chunk.inserts
    assert (insert.place, len(insert.vectors)) == (2, 2)
    assert WINDOW.stand_in not in (Language.bos_token_id, Language.eos_token_id)


def test_chunks_that_are_encoded_alike_are_equal() -> None:
    (plain,), (weighted,), (other,) = (
        WINDOW.chunks([[Unit(10, weight), unit]])
        for weight, unit in [(1.0, vectors(2)), (1.3, vectors(2)), (1.0, vectors(3))]
    )
    assert plain == weighted
    assert hash(plain) == hash(weighted)
    assert plain.weights == ()
    assert plain != other


@given(st.lists(st.lists(st.sampled_from([COMMA, 10, 11, 12]), max_size=200), max_size=4))
def test_nothing_is_lost_or_turned_around(sections: list[list[int]]) -> None:
    cut = WINDOW.cut([[Unit(token, 1.0) for token in section] for section in sections])
    assert all(len(chunk) <= 75 for chunk in cut)
    assert [unit.token for chunk in cut for unit in chunk] == [token for section in sections for token in section]
