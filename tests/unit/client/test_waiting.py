"""What a person sees while a server starts."""

import io

import pytest
from rich.console import Console

from collodion.client.cli.waiting import Waiting


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_on_a_terminal_one_line_names_what_is_awaited_and_goes_away() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=40, _environ={})
    waiting = Waiting(console)
    assert not waiting.done(["scheduler", "worker-0"])
    assert "waiting for scheduler, worker-0 (0 s)" in written(console)
    assert "\n" not in written(console)
    assert all(len(line) < 40 + len("\x1b[2K") for line in written(console).split("\r"))
    assert waiting.done([])
    assert written(console).endswith("\r\x1b[2K")


@pytest.mark.parametrize(
    "console",
    [
        Console(file=io.StringIO(), _environ={}),
        Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"}),
    ],
)
def test_where_nothing_can_move_there_are_plain_lines_only(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = Waiting(console)
    assert not waiting.done(["worker-0"])
    waiting.say("worker-0 is ready")
    assert waiting.done([])
    assert written(console) == ""
    assert capsys.readouterr().err == "collodion: worker-0 is ready\n"
