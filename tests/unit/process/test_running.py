"""The directory of a running server."""

from pathlib import Path

import pytest

from collodion.process.config import ConfigError
from collodion.process.running import announced, announcement, prepare_run_dir


def test_a_process_is_announced_exactly_while_it_is_ready(tmp_path: Path) -> None:
    assert announcement(tmp_path, "scheduler") is None
    with announced(tmp_path, "scheduler", metrics="127.0.0.1:1"):
        assert (announcement(tmp_path, "scheduler") or {})["metrics"] == "127.0.0.1:1"
    assert announcement(tmp_path, "scheduler") is None


def test_a_process_that_ends_late_leaves_its_successors_announcement(tmp_path: Path) -> None:
    with announced(tmp_path, "scheduler"):
        (tmp_path / "scheduler.json").write_text('{"pid": -1}')
    assert announcement(tmp_path, "scheduler") == {"pid": -1}


def test_a_run_dir_is_made_for_this_user_alone(tmp_path: Path) -> None:
    made = prepare_run_dir(tmp_path / "run")
    assert made.stat().st_mode & 0o777 == 0o700


def test_a_run_dir_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="writable by nobody else"):
        prepare_run_dir(tmp_path)


def test_a_run_dir_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too long"):
        prepare_run_dir(tmp_path / ("x" * 100))
