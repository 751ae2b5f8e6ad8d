from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from collodion.worker.prompting.embeddings import EmbeddingFiles, EmbeddingUnusable, load_embedding, read_embedding

VECTORS = torch.arange(12.0).reshape(3, 4)
OTHERS = torch.ones(3, 6)


@pytest.mark.parametrize("key", ["emb_params", "<a-cat>", "clip_l"])
def test_vectors_for_one_encoder_are_read(tmp_path: Path, key: str) -> None:
    save_file({key: VECTORS.half()}, tmp_path / "x.safetensors")
    embedding = load_embedding("x", tmp_path / "x.safetensors")
    assert len(embedding) == 3
    assert embedding.vectors[0].dtype is torch.float32
    assert torch.equal(embedding.vectors[0], VECTORS)
    assert embedding.misfit([4], 75) is None


def test_capitals_in_a_suffix_do_not_matter(tmp_path: Path) -> None:
    save_file({"x": VECTORS}, tmp_path / "x.SafeTensors")
    assert len(load_embedding("x", tmp_path / "x.SafeTensors")) == len(VECTORS)


def test_one_vector_may_be_flat() -> None:
    assert read_embedding("x", {"<x>": torch.ones(4)}).vectors[0].shape == (1, 4)


@pytest.mark.parametrize("keys", [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
def test_vectors_for_both_encoders_are_read_in_their_order(keys: tuple[str, str]) -> None:
    embedding = read_embedding("x", {keys[1]: OTHERS, keys[0]: VECTORS})
    assert torch.equal(embedding.vectors[0], VECTORS)
    assert torch.equal(embedding.vectors[1], OTHERS)
    assert embedding.misfit([4, 6], 75) is None


def test_a_digest_says_what_is_held() -> None:
    one, same = (read_embedding(name, {"x": VECTORS}) for name in ("a", "b"))
    assert one.digest == same.digest
    assert one.digest != read_embedding("a", {"x": VECTORS + 1}).digest
    assert one.digest != read_embedding("a", {"x": VECTORS.reshape(4, 3)}).digest


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({}, "no layout"),
        ({"a": VECTORS, "b": VECTORS}, "no layout"),
        ({"clip_l": VECTORS, "clip_g": OTHERS, "t5xxl": OTHERS}, "no layout"),
        ({"clip_l": VECTORS, "clip_g": OTHERS[:2]}, "different numbers"),
        ({"x": torch.ones(1, 2, 3)}, "shape"),
        ({"x": torch.ones(0, 4)}, "shape"),
        ({"x": torch.tensor(1.0)}, "shape"),
        ({"x": torch.ones(2, 4, dtype=torch.int64)}, "int64"),
        ({"x": torch.tensor([[1.0, float("nan")]])}, "not finite"),
    ],
)
def test_what_is_no_embedding_is_refused(tensors: dict[str, torch.Tensor], why: str) -> None:
    with pytest.raises(EmbeddingUnusable, match=why) as refused:
        read_embedding("moss", tensors)
    assert "'moss'" in refused.value.reason


@pytest.mark.parametrize(
    ("widths", "window", "why"),
    [([6], 75, "of width 4; .* of width 6"), ([4, 6], 75, "4; .* 4 and 6"), ([4], 2, "3 vectors")],
)
def test_a_model_that_it_does_not_fit_is_told(widths: list[int], window: int, why: str) -> None:
    misfit = read_embedding("moss", {"x": VECTORS}).misfit(widths, window)
    assert misfit is not None
    with pytest.raises(EmbeddingUnusable, match=why):
        raise EmbeddingUnusable(misfit)


@pytest.mark.parametrize("name", ["x.pt", "x.bin", "x"])
def test_files_that_may_run_code_are_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(EmbeddingUnusable, match="collodion convert"):
        load_embedding("x", tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}tail"])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(EmbeddingUnusable, match=r"cannot be read|no layout"):
        load_embedding("x", tmp_path / "x.safetensors")


def test_a_file_that_is_cut_off_missing_or_huge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(EmbeddingUnusable, match="cannot be read"):
        load_embedding("x", path)
    save_file({"x": VECTORS}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EmbeddingUnusable, match="cannot be read"):
        load_embedding("x", path)
    with path.open("r+b") as file:
        file.truncate(17 << 20)
    with pytest.raises(EmbeddingUnusable, match="bytes; "):
        load_embedding("x", path)


def test_files_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    files = EmbeddingFiles({"x": tmp_path / "x.safetensors", "gone": tmp_path / "gone.safetensors"})
    assert (list(files), len(files), "x" in dict.fromkeys(files)) == (["x", "gone"], 2, True)
    save_file({"x": VECTORS}, tmp_path / "x.safetensors")
    assert torch.equal(files["x"].vectors[0], VECTORS)
    with pytest.raises(KeyError):
        files["y"]
