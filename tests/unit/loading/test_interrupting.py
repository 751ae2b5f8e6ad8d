"""A study that is interrupted."""

from collections.abc import Callable

import load
import pytest

from loading.asking import Reply
from loading.cells import Cell, Turn, turns_of
from loading.outcomes import Run
from loading.serving import Contestant, Servers
from simulation.instance import Instance


class Interrupted:
    """A bench that is interrupted after so many turns."""

    def __init__(self, done: int) -> None:
        self.turns = turns_of([Cell(users=1)], [1], 3, ["a"])
        self._left = done

    def instance(self, cell: Cell, seed: int) -> Instance:
        return Instance((), ())

    def start(self, servers: Servers) -> None:
        servers.use("a", "nowhere")

    def run(self, turn: Turn, contestant: Contestant, replays: bool, on_reply: Callable[[Reply], object]) -> list[Run]:
        if not self._left:
            raise KeyboardInterrupt
        self._left -= 1
        return [Run(turn.label, turn.cell, turn.seed, turn.repeat, {}, ())]


def test_what_was_done_is_shown() -> None:
    assert [run.repeat for run in load.run_all(Interrupted(done=2), replays=False)] == [0, 1]  # type: ignore[arg-type]


def test_with_nothing_done_there_is_nothing_to_show() -> None:
    with pytest.raises(KeyboardInterrupt):
        load.run_all(Interrupted(done=0), replays=False)  # type: ignore[arg-type]
