import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collodion.worker.prompting.emphasis import MAX_WEIGHT, parse

MARKUP = st.text(alphabet="ab ,()[]:|.12\\-", max_size=60) | st.lists(
    st.sampled_from(["cat", " ", "(", ")", "[", "]", ":1.3)", "\\", ":", "|", "BREAK", "AND", ":0.5]", "(dog:-2)"])
).map("".join)


def fragments(prompt: str) -> list[tuple[str, Any]]:
    (section,) = parse(prompt).sections
    return [(fragment.text, pytest.approx(fragment.weight)) for fragment in section]


@pytest.mark.parametrize(
    ("prompt", "meant"),
    [
        ("", []),
        ("a cat", [("a cat", 1)]),
        ("a (cat)", [("a ", 1), ("cat", 1.1)]),
        ("a ((cat)) sat", [("a ", 1), ("cat", 1.21), (" sat", 1)]),
        ("a [cat]", [("a ", 1), ("cat", 1 / 1.1)]),
        ("[[cat]]", [("cat", 1 / 1.21)]),
        ("(a red:1.3) cat", [("a red", 1.3), (" cat", 1)]),
        ("(cat: .5 )", [("cat", 0.5)]),
        ("(cat:2.)", [("cat", 2)]),
        ("(cat:-0.5)", [("cat", -0.5)]),
        ("(cat:0)", [("cat", 0)]),
        ("((red:1.2) cat:1.5)", [("red", 1.8), (" cat", 1.5)]),
        ("[(red:2)]", [("red", 2 / 1.1)]),
        ("(time 10:30:1.2)", [("time 10:30", 1.2)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(a:1e3)", [("a:1e3", 1.1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        (r"a \(cat\)", [("a (cat)", 1)]),
        (r"(a \(cat\):1.2)", [("a (cat)", 1.2)]),
        (r"\[a\] \\ \m", [(r"[a] \ m", 1)]),
        ("(un:1.0)happy", [("unhappy", 1)]),
        ("(a)(b)", [("ab", 1.1)]),
        ("a cat :) smiles", [("a cat :) smiles", 1)]),
        ("a:1.3) b", [("a:1.3) b", 1)]),
        ("a] b", [("a] b", 1)]),
        ("(cat", [("cat", 1.1)]),
        ("((cat) dog", [("cat", 1.21), (" dog", 1.1)]),
        ("()", []),
        ("([un])happy", [("unhappy", 1)]),
        ("(red [blue) sky]", [("red ", 1.1), ("blue", 1), (" sky", 1 / 1.1)]),
        ("(red [blue:1.5) sky", [("red ", 1.5), ("blue", 1.5 / 1.1), (" sky", 1 / 1.1)]),
    ],
)
def test_weights_are_read_as_people_write_them(prompt: str, meant: list[tuple[str, float]]) -> None:
    assert fragments(prompt) == meant


def test_break_begins_a_new_section_and_weights_go_on() -> None:
    assert parse("a BREAK b").sections == ((("a ", 1.0),), ((" b", 1.0),))
    first, second = parse("(a BREAK b:2) c").sections
    assert first == (("a ", 2.0),)
    assert second == ((" b", 2.0), (" c", 1.0))


def test_break_is_a_word_of_its_own_in_capitals() -> None:
    for prompt in ("break", "BREAKING", "DAYBREAK", "BREAK_"):
        assert fragments(prompt) == [(prompt, 1)]


def test_sections_may_be_empty() -> None:
    assert parse("BREAK").sections == ((), ())
    assert parse("a BREAK  BREAK b").sections == ((("a ", 1.0),), (("  ", 1.0),), ((" b", 1.0),))


@pytest.mark.parametrize(
    ("prompt", "remark"),
    [
        ("a [cat:dog:0.5]", "'[cat:dog:0.5]' is prompt editing"),
        ("a [cat:10]", "'[cat:10]' is prompt editing"),
        ("a [cat::0.5]", "'[cat::0.5]' is prompt editing"),
        ("a [(red:1.2) cat: 0.5 ]", "is prompt editing"),
        ("a [cat|dog]", "'[cat|dog]' alternates"),
        ("a cat AND a dog", "AND does not compose"),
        ("a (cat:11)", "weights go from -10 to 10"),
        ("((((a:3):-3):3):3)", "weights go from -10 to 10"),
        ("a (cat", "'(cat' is never closed"),
        ("a [cat", "'[cat' is never closed"),
    ],
)
def test_what_is_not_supported_is_said(prompt: str, remark: str) -> None:
    (said,) = parse(prompt).remarks
    assert remark in said


@pytest.mark.parametrize(
    "prompt", ["a (cat:1.2)", "[cat]", "[cat, 1:2 scale]", "a | b", "(a|b)", "and", "BAND", r"\[a:b:0.5\]", ":)"]
)
def test_what_is_supported_is_not_remarked_on(prompt: str) -> None:
    assert parse(prompt).remarks == ()


def test_what_is_not_supported_is_read_as_text() -> None:
    assert fragments("[cat:dog:0.5]") == [("cat:dog:0.5", 1 / 1.1)]
    assert fragments("[cat|dog]") == [("cat|dog", 1 / 1.1)]
    assert fragments("cat AND dog") == [("cat AND dog", 1)]


def test_weights_stay_within_bounds_however_deep_the_brackets_are() -> None:
    assert fragments("(a:1e9)") == [("a:1e9", 1.1)]
    assert fragments("(a:99999)") == [("a", MAX_WEIGHT)]
    assert fragments("(a:-99999)") == [("a", -MAX_WEIGHT)]
    assert fragments("(" * 64 + "a" + ")" * 64) == [("a", MAX_WEIGHT)]
    assert fragments("(" * 65 + "a" + ")" * 65) == [("(a", MAX_WEIGHT), (")", 1)]
    parsed = parse("([" * 3_000 + "a" + ":0)" * 1_300)
    assert len(parsed.remarks) <= 8
    assert all(len(remark) < 200 for remark in parsed.remarks)


@given(st.text())
def test_text_without_markup_is_one_fragment(text: str) -> None:
    plain = "".join(character for character in text if character not in "()[]\\").replace("BREAK", "")
    assert fragments(plain) == ([(plain, 1)] if plain else [])


@given(MARKUP)
def test_every_string_is_a_prompt(prompt: str) -> None:
    for section in parse(prompt).sections:
        assert all(text and abs(weight) <= MAX_WEIGHT for text, weight in section)
        assert all(abs(one.weight - other.weight) > 1e-9 for one, other in itertools.pairwise(section))


@given(st.text(alphabet="ab ,.|:"), st.sampled_from([0.5, 1.0, 1.3]))
def test_a_bracket_says_its_weight(text: str, weight: float) -> None:
    assert fragments(f"({text}:{weight})") == ([(text, weight)] if text else [])


@given(st.text(alphabet="ab()[]\\:1.3"))
def test_what_is_escaped_is_read_as_it_stands(text: str) -> None:
    escaped = "".join("\\" + character if character in "()[]\\" else character for character in text)
    assert fragments(escaped) == ([(text, 1)] if text else [])
