import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from collodion.worker.registry import headers
from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.registry.headers import parse_header, read_header
from tests.unit.registry.files_by_hand import header_json, write, zeros

GOOD = {
    "a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b": {"dtype": "F32", "shape": [], "data_offsets": [12, 16]},
}


def test_a_header_says_what_the_safetensors_library_wrote(tmp_path: Path) -> None:
    tensors = {"x.weight": torch.zeros(2, 3), "y": torch.zeros(4, dtype=torch.bfloat16), "z": torch.zeros(0, 5)}
    save_file(tensors, tmp_path / "a.safetensors", {"format": "pt"})

    header = read_header(tmp_path / "a.safetensors")

    assert {name: entry.shape for name, entry in header.tensors.items()} == {"x.weight": (2, 3), "y": (4,), "z": (0, 5)}
    assert header.metadata == {"format": "pt"}
    assert header.amount() == (10, 32)


def wrong(**changes: object) -> dict[str, object]:
    """GOOD with the first tensor described otherwise."""
    return {**GOOD, "a": {**GOOD["a"], **changes}}


WRONG = {
    "no JSON": (b"{", "not a JSON object"),
    "no object": ([1, 2], "not a JSON object"),
    "deep": (b'{"a":' * 100_000, "not a JSON object"),
    "not UTF-8": (b'{"\xff\xfe": 1}', "not a JSON object"),
    "no description": ({"a": 3}, "does not describe"),
    "no shape": ({"a": {"dtype": "F16", "data_offsets": [0, 0]}}, "does not describe"),
    "one offset": (wrong(data_offsets=[0]), "does not describe"),
    "words for sizes": (wrong(shape=["2", 3]), "does not describe"),
    "fractions": (wrong(shape=[2.0, 3]), "does not describe"),
    "negative": (wrong(shape=[-2, -3]), "does not describe"),
    "truth for a number": (wrong(shape=[True, 6]), "does not describe"),
    "unknown dtype": (wrong(dtype="F4"), "not supported"),
    "dtype of no word": (wrong(dtype=["F16"]), "does not describe"),
    "many dimensions": (wrong(shape=[1] * 40), "40 dimensions"),
    "size and offsets differ": (wrong(shape=[2, 4]), "does not take 12 bytes"),
    "overflowing shape": (wrong(shape=[2**62, 2**62, 2**62]), "does not take"),
    "backwards": (wrong(data_offsets=[12, 0]), "does not take"),
    "overlapping": ({**GOOD, "b": {"dtype": "F32", "shape": [], "data_offsets": [4, 8]}}, "over another"),
    "a gap": ({**GOOD, "b": {"dtype": "F32", "shape": [], "data_offsets": [13, 17]}}, "gap"),
    "metadata of numbers": ({**GOOD, "__metadata__": {"a": 1}}, "__metadata__"),
    "metadata of no kind": ({**GOOD, "__metadata__": 7}, "__metadata__"),
    "the same twice": (
        b'{"a":{"dtype":"U8","shape":[16],"data_offsets":[0,16]},"a":{"dtype":"U8","shape":[16],"data_offsets":[0,16]}}',
        "twice",
    ),
}


@pytest.mark.parametrize(("said", "why"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_header_is_refused_with_the_file_and_the_cause(tmp_path: Path, said: object, why: str) -> None:
    path = write(tmp_path / "bad.safetensors", said, data_bytes=16)
    with pytest.raises(ModelUnusable, match=why) as refused:
        read_header(path)
    assert str(path) in refused.value.reason


def test_a_file_is_refused_that_ends_before_its_tensors(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.safetensors", GOOD, data_bytes=10)
    with pytest.raises(ModelUnusable, match=r"not complete: .* bytes are described"):
        read_header(path)


def test_a_file_is_refused_that_goes_on_after_its_tensors(tmp_path: Path) -> None:
    path = write(tmp_path / "long.safetensors", GOOD, data_bytes=17)
    with pytest.raises(ModelUnusable, match="belong to no tensor"):
        read_header(path)


@pytest.mark.parametrize(
    "begin", [b"", b"\x01", b"PK\x03\x04 a zip archive", b"<!DOCTYPE html><html>Log in to download"]
)
def test_what_is_no_safetensors_file_is_said_to_be_none(tmp_path: Path, begin: bytes) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(begin)
    with pytest.raises(ModelUnusable, match="is no safetensors file"):
        read_header(path)


def test_a_header_that_is_longer_than_the_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "liar.safetensors"
    path.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelUnusable, match="would have 1152921504606846976 bytes"):
        read_header(path)


def test_a_header_of_a_gigabyte_is_not_read_even_where_the_file_has_it(tmp_path: Path) -> None:
    path = tmp_path / "bomb.safetensors"
    with path.open("wb") as file:
        file.write((2**30).to_bytes(8, "little"))
        file.truncate(2**31)
    with pytest.raises(ModelUnusable, match="would have"):
        read_header(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(ModelUnusable, match="is not a file"):
        read_header(tmp_path / "pipe.safetensors")


def test_a_directory_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"is not a file|cannot be read"):
        read_header(tmp_path)
    with pytest.raises(ModelUnusable, match="cannot be read: No such file"):
        read_header(tmp_path / "none.safetensors")


def test_a_key_that_is_spelled_with_escapes_is_no_second_one(tmp_path: Path) -> None:
    raw = b'{"a":{"dt\\u0079pe":"U8","shape":[16],"data_offsets":[0,16]},"__metadata__":{"shape":"\\"dtype\\""}}'
    header = read_header(write(tmp_path / "a.safetensors", raw, data_bytes=16))
    assert header.shape("a") == (16,)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 2000))
def test_no_bytes_break_the_reader(raw: bytes, file_bytes: int) -> None:
    _read_or_refuse(raw, file_bytes)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["F16", "U8", "F32"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__", "ü"]), _VALUES, max_size=4), st.integers(0, 2000))
def test_no_json_breaks_the_reader(said: object, file_bytes: int) -> None:
    _read_or_refuse(json.dumps(said).encode(), file_bytes)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_right_file_with_any_byte_changed_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(save({"a": torch.arange(6.0), "bb": torch.ones(2, 2, dtype=torch.float16)}, {"k": "v"}))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(8, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(8, len(whole)))
    length = int.from_bytes(whole[:8], "little")
    _read_or_refuse(bytes(whole[8 : 8 + length]), cut)


def _read_or_refuse(raw: bytes, file_bytes: int) -> None:
    """Either it is refused, or everything that it says is true of a file of that size."""
    try:
        header = parse_header(Path("x.safetensors"), raw, file_bytes)
    except ModelUnusable:
        return
    entries = sorted(header.tensors.values(), key=lambda entry: entry.begin)
    assert sum(entry.end - entry.begin for entry in entries) == file_bytes - 8 - len(raw)
    assert all(0 <= entry.begin <= entry.end <= file_bytes for entry in entries)


def test_a_header_of_thousands_of_tensors_is_understood(tmp_path: Path) -> None:
    shapes = {f"lora_unet_{index}.weight": (4, 4) for index in range(5000)}
    header = read_header(zeros(tmp_path / "many.safetensors", shapes))
    assert len(header.tensors) == 5000
    assert header.tensors["lora_unet_4999.weight"].end == header.size_bytes


def test_more_tensors_than_any_model_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "MAX_TENSORS", 20)
    said = json.dumps(header_json({str(index): () for index in range(21)})).encode()
    with pytest.raises(ModelUnusable, match="21 tensors"):
        parse_header(Path("x.safetensors"), said, 2**20)
