import pytest

from collodion.worker.registry.vocabulary import clip_tokenizer


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("A Photo  of\na CAT", [320, 1125, 539, 320, 2368]),
        ("", []),
        ("an astronaut riding a horse on mars", [550, 18376, 6765, 320, 4558, 525, 7496]),
        ("hello world!", [3306, 1002, 256]),
    ],
)
def test_it_reads_as_clip_does(text: str, ids: list[int]) -> None:
    tokenizer = clip_tokenizer(pad_token="<|endoftext|>", model_max_length=77)
    assert tokenizer(text).input_ids == [49406, *ids, 49407]


def test_it_has_clips_vocabulary_and_pads_as_each_encoder_wants() -> None:
    clip = clip_tokenizer(pad_token="<|endoftext|>", model_max_length=77)
    open_clip = clip_tokenizer(pad_token="!", model_max_length=77)
    assert len(clip) == len(open_clip) == 49408
    assert clip("cat", padding="max_length").input_ids[3:] == [49407] * 74
    assert open_clip("cat", padding="max_length").input_ids[3:] == [0] * 74


def test_words_come_back_as_they_were_said() -> None:
    tokenizer = clip_tokenizer(pad_token="<|endoftext|>", model_max_length=77)
    text = "a naïve café, 3 dogs & 水墨 🐈"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids).replace(" ", "") == text.replace(
        " ", ""
    )
