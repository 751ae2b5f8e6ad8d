"""Tables for people, in Markdown: medians over the runs of a cell, with the range where there are several."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loading.cells import Cell
from loading.outcomes import Run
from simulation.tables import markdown

COMPARED = ("goodput", "attainment", "latency_p50", "latency_p95", "latency_p99")
"""What a replay is judged by."""


@dataclass(frozen=True, slots=True)
class Row:
    """The runs of one contender in one cell, or their replays."""

    label: str
    cell: Cell
    runs: tuple[Run, ...]
    replayed: bool

    def values(self, figure: str) -> list[float]:
        """Of each run that has it as a number."""
        values = (run.figures.get(figure, math.nan) for run in self.runs)
        return [value for value in values if not math.isnan(value)]

    def median(self, figure: str) -> float:
        """NaN if no run has it."""
        return statistics.median(self.values(figure) or [math.nan])


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    text: Callable[[Row], str]


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """By cell and contender, both as they came first; a replay behind what it replays."""
    cells = list(dict.fromkeys(run.cell for run in runs))
    labels = list(dict.fromkeys(run.label for run in runs))
    grouped: dict[tuple[int, int, bool], list[Run]] = {}
    for run in runs:
        grouped.setdefault((cells.index(run.cell), labels.index(run.label), run.replayed), []).append(run)
    return [
        Row(labels[label], cells[cell], tuple(grouped[cell, label, replayed]), replayed)
        for cell, label, replayed in sorted(grouped)
    ]


def ratios(row: Row, to: Row, figure: str) -> list[float]:
    """Of each run to the run of the same seed and repeat: what both met, cancels."""
    others = {(run.seed, run.repeat): run.figures.get(figure, math.nan) for run in to.runs}
    pairs = [(run.figures.get(figure, math.nan), others.get((run.seed, run.repeat), math.nan)) for run in row.runs]
    return [one / other for one, other in pairs if other and not math.isnan(one / other)]


def cell_table(rows: Sequence[Row]) -> str:
    """One cell: a row for each contender. Ratios are to the first of them."""
    columns = _CLOSED if rows[0].cell.users is not None else _OPEN
    with_ratios = rows[0].cell.users is not None and len(rows) > 1
    titles = [column.title for column in columns]
    lines = [[column.text(row) for column in columns] for row in rows]
    if with_ratios:
        first = rows[0]
        titles += [f"latency / {first.label}", f"images/s / {first.label}"]
        for row, line in zip(rows, lines, strict=True):
            line += [spread(ratios(row, first, figure), ".2f") for figure in ("latency_mean", "images_per_s")]
    return markdown(titles, lines)


def replay_table(rows: Sequence[Row]) -> str:
    """How far the replays are off: replayed over real."""
    real = {(row.label, row.cell): row for row in rows if not row.replayed}
    pairs = [(row, real[row.label, row.cell]) for row in rows if row.replayed]
    lines = [
        [f"{row.cell.label}: {row.label}", *(spread(ratios(row, other, figure), ".2f") for figure in COMPARED)]
        for row, other in pairs
    ]
    return markdown(["replayed / real", *(figure.replace("_", " ") for figure in COMPARED)], lines)


def spread(values: Sequence[float], form: str) -> str:
    """Median and range of several, one as it is."""
    if not values:
        return "–"
    middle = format(statistics.median(values), form)
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):{form}} to {max(values):{form}})"


def _median(figure: str, form: str = ".2f", factor: float = 1.0) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = row.median(figure)
        return "–" if math.isnan(value) else format(factor * value, form)

    return text


def _range(figure: str, form: str = ".2f", factor: float = 1.0) -> Callable[[Row], str]:
    return lambda row: spread([factor * value for value in row.values(figure)], form)


def _kept(row: Row) -> str:
    return f"{100 * row.median('kept'):.1f}" if row.median("promised") else "–"


_LABEL = _Column("policy", lambda row: f"{row.label}, replayed" if row.replayed else row.label)
_ANSWERS = (
    _Column("answer p50, ms", _median("answer_p50", ".0f", 1000)),
    _Column("p99", _median("answer_p99", ".0f", 1000)),
    _Column("max", _median("answer_max", ".0f", 1000)),
)
_OPEN = (
    _LABEL,
    _Column("load as it was", _median("load")),
    _Column("on time, %", _range("attainment", ".1f", 100)),
    _Column("goodput, images/s", _range("goodput")),
    _Column("p50, s", _median("latency_p50")),
    _Column("p95", _median("latency_p95")),
    _Column("p99", _median("latency_p99")),
    _Column("promised", _median("promised", ".0f")),
    _Column("kept, %", _kept),
    _Column("refused", _median("refused", ".0f")),
    _Column("dropped", _median("dropped", ".0f")),
    _Column("evaluations", _median("evaluations", ",.0f")),
    _Column("batch", _median("mean_batch", ".1f")),
    *_ANSWERS,
    _Column("told when, %", _median("told", ".1f", 100)),
)
_CLOSED = (
    _LABEL,
    _Column("latency, mean, s", _range("latency_mean")),
    _Column("p50", _median("latency_p50")),
    _Column("p95", _median("latency_p95")),
    _Column("images/s", _range("images_per_s")),
    _Column("evaluations", _median("evaluations", ",.0f")),
    _Column("batch", _median("mean_batch", ".1f")),
    *_ANSWERS,
)
