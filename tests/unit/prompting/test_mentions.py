import pytest

from collodion.worker.prompting.mentions import Mention, Names

NAMES = Names(["bad", "bad-hands-5", "EasyNegative", "<cat-toy>", "two words", "v1.3", "Ünder_score"])


def bare(name: str, text: str | None = None) -> Mention:
    return Mention(name, False, True, text or name)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("a cat", ["a cat"]),
        ("bad", [bare("bad")]),
        ("a bad, cat", ["a ", bare("bad"), ", cat"]),
        ("badly notbad bad2 bad_", ["badly notbad bad2 bad_"]),
        ("bad-hands-5", [bare("bad-hands-5")]),
        ("bad-hands-6", [bare("bad"), "-hands-6"]),
        ("bad-hands-55", [bare("bad"), "-hands-55"]),
        ("easynegative.", [bare("EasyNegative", "easynegative"), "."]),
        ("a <cat-toy>!", ["a ", bare("<cat-toy>"), "!"]),
        ("x<cat-toy>y", ["x", bare("<cat-toy>"), "y"]),
        ("two words", [bare("two words")]),
        ("two wordsmiths", ["two wordsmiths"]),
        ("v1.3, v1.30", [bare("v1.3"), ", v1.30"]),
        ("ünder_score", [bare("Ünder_score", "ünder_score")]),
        ("bad bad", [bare("bad"), " ", bare("bad")]),
    ],
)
def test_a_bare_name_is_found_where_it_is_a_word(text: str, parts: list[str | Mention]) -> None:
    assert NAMES.split(text) == parts


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("embedding:bad", "bad"),
        ("Embedding:EASYNEGATIVE", "EasyNegative"),
        ("embedding:bad-hands-5", "bad-hands-5"),
        ("embedding:v1.3", "v1.3"),
        ("embedding:bad.safetensors", "bad"),
        ("embedding:bad-hands-5.pt", "bad-hands-5"),
        ("embedding:two words", "two words"),
        ("embedding:<cat-toy>", "<cat-toy>"),
    ],
)
def test_a_name_that_is_said_to_be_one_is_found(text: str, name: str) -> None:
    assert NAMES.split(f"{text}, cat") == [Mention(name, True, True, text), ", cat"]


@pytest.mark.parametrize("name", ["other", "bad-hands", "bad2", "other.safetensors", "bäd"])
def test_a_name_that_nothing_has_is_told(name: str) -> None:
    assert NAMES.split(f"a embedding:{name}. b") == ["a ", Mention(name, True, False, f"embedding:{name}"), ". b"]


@pytest.mark.parametrize(
    "text", ["embedding:", "embedding: bad2", "embedding:,", "no embedding here", "word-embedding"]
)
def test_what_only_looks_like_a_mention_is_text(text: str) -> None:
    assert NAMES.split(text) == [text]


def test_without_embeddings_everything_is_text() -> None:
    assert Names([]).split("a bad <cat-toy>") == ["a bad <cat-toy>"]
