"""The progress bar, with what the run under way has come to so far."""

import collections
import statistics
from types import TracebackType
from typing import Self

from tqdm import tqdm  # type: ignore[import-untyped]

from loading.asking import Reply
from loading.cells import Turn
from simulation.ledger import Outcome

_UNHAPPY = (Outcome.REFUSED, Outcome.FAILED, Outcome.CANCELLED)


class Live:
    """One bar for the whole study; its end tells of the present run."""

    def __init__(self, total: int) -> None:
        self._bar = tqdm(total=total, unit="request", smoothing=0.05, dynamic_ncols=True, delay=1)
        self._replies: list[Reply] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def begin(self, turn: Turn) -> None:
        """Another run."""
        self._replies = []
        self._bar.set_description(f"{turn.label}, {turn.cell.label}")

    def take(self, reply: Reply) -> None:
        """A request came to its end."""
        self._replies.append(reply)
        self._bar.set_postfix_str(live_figures(self._replies), refresh=False)
        self._bar.update()


def live_figures(replies: list[Reply]) -> str:
    """In one line: the share on time where there are deadlines, how many were refused or failed, the median latency."""
    records = [reply.record for reply in replies]
    dated = sum(reply.request.slo_s is not None for reply in replies)
    latencies = [reply.record.finish - reply.request.release for reply in replies if reply.record.finish is not None]
    parts = [f"on time {100 * sum(record.on_time for record in records) / dated:.0f} %"] if dated else []
    counts = collections.Counter(record.outcome for record in records)
    parts += [f"{outcome.value} {counts[outcome]}" for outcome in _UNHAPPY if counts[outcome]]
    if latencies:
        parts.append(f"p50 {statistics.median(latencies):.2f} s")
    return ", ".join(parts)
