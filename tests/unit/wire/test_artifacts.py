"""The artifact store as a directory: whole or absent, found again, kept within bounds."""

import os
import time
from pathlib import Path

import pytest

from collodion.wire.artifacts import ArtifactMissing, DirectoryStore, upload_key, upload_sha256


def everything(store: DirectoryStore, key: str, chunk_bytes: int = 1 << 20) -> bytes:
    return b"".join(store.chunks(key, chunk_bytes))


def test_what_was_put_is_found_in_chunks(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("job/0.png", b"abcdefg")
    assert list(store.chunks("job/0.png", 3)) == [b"abc", b"def", b"g"]


def test_putting_a_key_again_replaces_it_and_leaves_no_draft(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("job/0.png", b"old")
    store.put("job/0.png", b"new")
    assert everything(store, "job/0.png") == b"new"
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["0.png"]


@pytest.mark.parametrize(
    "key", ["job/9.png", "../etc/passwd", "job/..", "/etc/passwd", "", "a/b/c", "job/.0.png.1", "a/\0"]
)
def test_a_key_that_nothing_was_put_under_is_missing_however_it_is_spelt(tmp_path: Path, key: str) -> None:
    store = DirectoryStore(tmp_path / "store")
    store.put("job/0.png", b"x")
    with pytest.raises(ArtifactMissing):
        everything(store, key)


def test_pruning_deletes_what_is_too_old(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("old/0.png", b"x")
    store.put("new/0.png", b"x")
    hour_ago = time.time() - 3600
    os.utime(tmp_path / "old" / "0.png", (hour_ago, hour_ago))
    assert store.prune(max_age_s=60, max_bytes=1000) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_pruning_deletes_the_oldest_above_the_size(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    for index in range(4):
        store.put(f"job/{index}.png", b"x" * 10)
        moment = time.time() - 100 + index
        os.utime(tmp_path / "job" / f"{index}.png", (moment, moment))
    assert store.prune(max_age_s=1000, max_bytes=25) == 2
    assert sorted(path.name for path in (tmp_path / "job").iterdir()) == ["2.png", "3.png"]


def aged(folder: Path, key: str, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(folder / key, (moment, moment))


def test_an_upload_is_named_after_its_content() -> None:
    assert upload_sha256(upload_key("5e1f")) == "5e1f"
    assert upload_sha256("") == ""


def test_an_upload_stays_while_an_unfinished_job_needs_it_whatever_its_age_and_size(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    needed, forgotten = upload_key("a"), upload_key("b")
    for key in (needed, forgotten, "job/0.png"):
        store.put(key, b"x" * 10)
        aged(tmp_path, key, 3600)
    assert store.prune(max_age_s=60, max_bytes=0, needed={needed}) == 2
    assert everything(store, needed) == b"x" * 10
    for key in (forgotten, "job/0.png"):
        with pytest.raises(ArtifactMissing):
            everything(store, key)


def test_an_upload_that_was_put_or_kept_a_moment_ago_stays_until_a_job_can_name_it(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    for name in ("a", "b", "c"):
        store.put(upload_key(name), b"x")
        aged(tmp_path, upload_key(name), 3600 if name != "a" else 0)
    assert store.keep(upload_key("b"))
    assert store.prune(max_age_s=0, max_bytes=0) == 1
    assert sorted(path.name for path in (tmp_path / "uploads").iterdir()) == ["a.png", "b.png"]


def test_an_upload_that_is_kept_while_the_others_are_deleted_stays(tmp_path: Path, monkeypatch) -> None:
    store = DirectoryStore(tmp_path)
    for name in ("a", "b"):
        store.put(upload_key(name), b"x")
        aged(tmp_path, upload_key(name), 3600 if name == "a" else 3000)
    unlink = Path.unlink

    def keeping(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        store.keep(upload_key("b"))

    monkeypatch.setattr(Path, "unlink", keeping)
    assert store.prune(max_age_s=60, max_bytes=0) == 1
    assert everything(store, upload_key("b")) == b"x"


def test_what_is_not_there_cannot_be_kept(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    assert not store.keep(upload_key("a"))
    assert not store.keep("../a")
