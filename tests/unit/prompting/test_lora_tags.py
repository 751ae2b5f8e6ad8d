import pytest

from collodion.wire.prompts import NamedLora, extract_loras


def test_a_tag_is_taken_out_and_its_name_and_scale_are_told() -> None:
    extracted = extract_loras("a cat <lora:ink wash v2:0.8> in the rain")
    assert extracted.prompt == "a cat  in the rain"
    assert extracted.loras == (NamedLora("ink wash v2", 0.8),)
    assert extracted.violations == ()


def test_a_prompt_without_tags_stays_as_it_is() -> None:
    for prompt in ("", "a cat <3", "1 < 2 > 0", "<embedding:x>", "<laura:x:1>", "lora:x:1", "(cat:1.2) [dog]"):
        assert extract_loras(prompt) == (prompt, (), ())


def test_a_scale_that_is_left_out_is_one() -> None:
    assert extract_loras("<lora:x>").loras == (NamedLora("x", 1.0),)


def test_tags_are_told_in_the_order_of_the_text_even_if_a_name_comes_twice() -> None:
    extracted = extract_loras("<lora:b:1>,<lora:a:.5><lyco:b:-0.25>")
    assert extracted.prompt == ","
    assert extracted.loras == (("b", 1.0), ("a", 0.5), ("b", -0.25))


def test_spaces_and_capitals_do_not_matter() -> None:
    assert extract_loras("< LoRA : Ink : 1e-1 >").loras == (NamedLora("Ink", 0.1),)


def test_two_equal_scales_are_one_scale() -> None:
    assert extract_loras("<lora:x:0.8:0.80>") == ("", (NamedLora("x", 0.8),), ())


@pytest.mark.parametrize(
    ("tag", "why"),
    [
        ("<lora:x:0.8:0.6>", "different scales"),
        ("<lora:x:0.8:te=0.8>", "'te=0.8', which is no number"),
        ("<lora:x:much>", "'much', which is no number"),
        ("<lora:x:>", "'', which is no number"),
        ("<lora:x:nan>", "no number"),
        ("<lora:x:inf>", "no number"),
        ("<lora:x:1e999>", "no number"),
        ("<lora:x:1_0>", "no number"),
        ("<lora:x:٣>", "no number"),
        ("<lora::0.8>", "names no adapter"),
        ("<lora:>", "names no adapter"),
        ("<lora:x:0.8", "not closed"),
        ("<hypernet:x:0.8>", "hypernetwork"),
    ],
)
def test_a_tag_that_cannot_be_read_is_a_violation_and_no_text(tag: str, why: str) -> None:
    prompt, loras, violations = extract_loras(f"a {tag}")
    assert (prompt, loras) == ("a ", ())
    assert len(violations) == 1
    assert violations[0].startswith(tag)
    assert why in violations[0]


def test_an_open_tag_ends_where_the_next_begins() -> None:
    prompt, loras, violations = extract_loras("<lora:x:0.8 <lora:y:0.5> cat")
    assert prompt == " cat"
    assert loras == (NamedLora("y", 0.5),)
    assert len(violations) == 1


def test_a_violation_repeats_little_of_what_was_sent() -> None:
    (violation,) = extract_loras("<lora:x:" + "9" * 5000 + ">").violations
    assert len(violation) < 300
