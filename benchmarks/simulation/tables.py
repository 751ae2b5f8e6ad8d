"""Tables for people, in Markdown: they read well in a terminal, and go into `benchmarks/LOG.md` as they are."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from simulation.bounds import Cell
from simulation.summary import Summary


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    text: Callable[[Summary], str]


def _percent(name: str) -> Callable[[Summary], str]:
    return lambda row: f"{100 * row.mean[name]:.1f}"


def _spread_percent(name: str) -> Callable[[Summary], str]:
    return lambda row: f"{100 * row.mean[name]:.1f} ± {100 * row.deviation[name]:.1f}"


def _number(name: str, form: str = ".0f", factor: float = 1.0) -> Callable[[Summary], str]:
    return lambda row: "–" if math.isnan(row.mean[name]) else format(factor * row.mean[name], form)


_COLUMNS = (
    _Column("policy", lambda row: row.label),
    _Column("on time, % of jobs", _spread_percent("attainment")),
    _Column("of evaluations", _percent("attainment_evaluations")),
    _Column("promised", _number("promised")),
    _Column("kept, %", lambda row: f"{100 * row.mean['kept']:.1f}" if row.mean["promised"] else "–"),
    _Column("refused", _number("refused")),
    _Column("dropped", _number("dropped")),
    _Column("goodput, images/s", _number("goodput", ".2f")),
    _Column("p50, s", _number("latency_p50", ".2f")),
    _Column("p95", _number("latency_p95", ".2f")),
    _Column("p99", _number("latency_p99", ".2f")),
    _Column("batch", _number("mean_batch", ".1f")),
    _Column("evaluations", _number("evaluations", ",.0f")),
    _Column("a wall second", _number("evaluations_per_wall_s", ",.0f")),
    _Column("scheduler, µs an event", _number("cpu_per_event", ".0f", 1e6)),
)


def cell_table(rows: Sequence[Summary]) -> str:
    """One cell: a row for each scheduler, all its figures."""
    return markdown([column.title for column in _COLUMNS], [[column.text(row) for column in _COLUMNS] for row in rows])


def matrix(rows: Sequence[Summary], figure: str, bounds: Mapping[Cell, float]) -> str:
    """A figure in per cent: a row for each cell and one for their mean, a column for each scheduler, and the bound where it is known."""
    labels = list(dict.fromkeys(row.label for row in rows))
    cells = list(dict.fromkeys((row.slo_scale, row.load) for row in rows))
    columns = {
        label: {(row.slo_scale, row.load): row.mean[figure] for row in rows if row.label == label} for label in labels
    }
    if all(cell in bounds for cell in cells):
        columns["bound"] = dict(bounds)
    lines = [
        [f"{scale:g} / {load:g}", *(f"{100 * column[scale, load]:.1f}" for column in columns.values())]
        for scale, load in cells
    ]
    means = [sum(column[cell] for cell in cells) / len(cells) for column in columns.values()]
    lines.append(["mean", *(f"{100 * mean:.1f}" for mean in means)])
    return markdown(["SLO scale / load", *columns], lines)


def markdown(titles: list[str], lines: list[list[str]]) -> str:
    """A table of texts, the first column to the left."""
    widths = [max(len(line[column]) for line in (titles, *lines)) for column in range(len(titles))]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    texts = []
    for line in (titles, rule, *lines):
        first, *rest = zip(line, widths, strict=True)
        texts.append("| " + " | ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]) + " |")
    return "\n".join(texts)
