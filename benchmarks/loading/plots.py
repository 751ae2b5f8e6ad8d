"""The plot of a study: latency and throughput against users, or goodput, punctuality and latency against load."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from loading.tables import Row
from simulation.style import new_figure, policy_colours, save

_CLOSED = (("latency_mean", "mean latency, s", 1.0), ("images_per_s", "images a second", 1.0))
_OPEN = (
    ("attainment", "on time, %", 100.0),
    ("goodput", "goodput, images a second", 1.0),
    ("latency_p95", "latency p95, s", 1.0),
)


def plot(rows: Sequence[Row], path: Path) -> Path:
    """A column of panels for each SLO scale. Lines are medians, bands ranges, hollow marks what the simulator's replay says."""
    closed = rows[0].cell.users is not None
    figures = _CLOSED if closed else _OPEN
    scales = list(dict.fromkeys(row.cell.slo_scale for row in rows))
    figure = new_figure(1.6 + 3.4 * len(scales), 0.6 + 2.3 * len(figures))
    panels = figure.subplots(len(figures), len(scales), sharex=True, sharey="row", squeeze=False)
    colours = policy_colours(list(dict.fromkeys(row.label for row in rows)))
    for column, scale in enumerate(scales):
        here = [row for row in rows if row.cell.slo_scale == scale]
        for axes, (name, title, factor) in zip(panels[:, column], figures, strict=True):
            _draw(axes, here, name, factor, colours, _users if closed else _load)
            axes.set_ylim(0, 1.06 * axes.get_ylim()[1])
            if column == 0:
                axes.set_ylabel(title)
        panels[-1, column].set_xlabel("users" if closed else "load")
        if scale is not None:
            panels[0, column].set_title(f"SLO {scale:g} × standalone")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return save(figure, path)


def _draw(
    axes: Axes, rows: Sequence[Row], name: str, factor: float, colours: dict[str, str], at: Callable[[Row], float]
) -> None:
    for label, colour in colours.items():
        real = sorted((row for row in rows if row.label == label and not row.replayed), key=at)
        again = sorted((row for row in rows if row.label == label and row.replayed), key=at)
        drawn = [row for row in real if row.values(name)]
        places = [at(row) for row in drawn]
        medians = [factor * row.median(name) for row in drawn]
        low = [factor * min(row.values(name)) for row in drawn]
        high = [factor * max(row.values(name)) for row in drawn]
        axes.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.plot(places, medians, color=colour, marker="o", markersize=4, linewidth=1.8, label=label)
        if again:
            told = [factor * row.median(name) for row in again]
            (hollow,) = axes.plot([at(row) for row in again], told, color=colour, label=f"{label}, replayed")
            hollow.set(marker="s", markersize=8, markerfacecolor="none", linestyle=":", linewidth=0.8)
    axes.set_xticks(sorted({at(row) for row in rows}))


def _users(row: Row) -> float:
    assert row.cell.users is not None
    return float(row.cell.users)


def _load(row: Row) -> float:
    assert row.cell.load is not None
    return row.cell.load
