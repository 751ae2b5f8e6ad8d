"""The servers of a study: one for each contender, all of them up from the beginning to the end, and one at a time at work.

Idle ones cost memory and next to no time; so contenders can take turns without loading a model each time.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from loading.costs import Batch, batches_of
from server import Server, running_server


@dataclass(slots=True)
class Contestant:
    """A server that is up; of one that somebody else runs only the address is known."""

    address: str
    server: Server | None = None
    _read: int = 0

    def batches(self) -> list[Batch]:
        """What its workers did since the last time this was asked."""
        if self.server is None:
            return []
        lines = list(self.server.lines())
        new, self._read = lines[self._read :], len(lines)
        return batches_of(new)


class Servers(contextlib.ExitStack):
    """All of them, by label."""

    def __init__(self) -> None:
        super().__init__()
        self.by_label: dict[str, Contestant] = {}

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def start(self, label: str, flags: Sequence[str]) -> None:
        """Starts a server for POLICY[,SETTING=VALUE…]."""
        server = self.enter_context(running_server(*policy_flags(label), *flags))
        self.by_label[label] = Contestant(server.address, server)

    def use(self, label: str, address: str) -> None:
        """Takes one that is running already."""
        self.by_label[label] = Contestant(address)


def policy_flags(label: str) -> Iterator[str]:
    """The server's flags for POLICY[,SETTING=VALUE…]."""
    policy, *settings = label.split(",")
    yield f"--policy={policy}"
    yield from (f"--set=scheduler.{setting}" for setting in settings)
