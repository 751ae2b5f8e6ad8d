"""Two plots over cells: attainment against load, and the queue over time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from simulation.bounds import Cell
from simulation.style import INK, new_figure, policy_colours, save
from simulation.summary import Summary

_QUEUE_TICKS = (0, 5, 10, 20, 50, *(digit * 10**power for power in range(2, 6) for digit in (1, 2, 5)))


def plot_attainment(
    rows: Sequence[Summary], bounds: Mapping[Cell, float], figure_name: str, title: str, path: Path
) -> Path:
    """A panel for each SLO scale: a line for each scheduler with its deviation over the seeds, and the bound where there is one."""
    scales = sorted({row.slo_scale for row in rows})
    colours = policy_colours(list(dict.fromkeys(row.label for row in rows)))
    figure = new_figure(1.5 + 3.1 * len(scales), 3.6)
    panels = figure.subplots(1, len(scales), sharey=True, squeeze=False)[0]
    for axes, scale in zip(panels, scales, strict=True):
        for label, colour in colours.items():
            line = sorted((row for row in rows if row.slo_scale == scale and row.label == label), key=_load)
            _draw_line(axes, line, figure_name, label, colour)
        axes.set_xticks(sorted({row.load for row in rows}))
        bound = sorted((load, 100 * share) for (each, load), share in bounds.items() if each == scale)
        if bound:
            axes.plot(*zip(*bound, strict=True), color=INK, linestyle=(0, (4, 2)), linewidth=1.2, label="upper bound")
        axes.set(title=f"SLO {scale:g} × standalone", xlabel="load", ylim=(0, 103))
    panels[0].set_ylabel(title)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return save(figure, path)


def plot_queues(rows: Sequence[Summary], slo_scale: float, path: Path) -> Path:
    """A panel for each load at one SLO scale: requests in the system over time, first seed."""
    rows = [row for row in rows if row.slo_scale == slo_scale]
    loads = sorted({row.load for row in rows})
    colours = policy_colours(list(dict.fromkeys(row.label for row in rows)))
    figure = new_figure(8.4, 0.9 + 1.7 * len(loads))
    panels = figure.subplots(len(loads), 1, squeeze=False)[:, 0]
    for axes, load in zip(panels, loads, strict=True):
        for row in rows:
            if row.load == load and row.runs[0].in_system:
                times, counts = zip(*row.runs[0].in_system, strict=True)
                axes.step(times, counts, where="post", color=colours[row.label], linewidth=1.1, label=row.label)
        axes.set(ylabel="requests\nin the system", title=f"load {load:g}, SLO {slo_scale:g} × standalone")
        # Linear up to ten, then logarithmic: a queue that is kept short and one that grows without end are both to be seen.
        axes.set_yscale("symlog", linthresh=10)
        most = axes.get_ylim()[1]
        axes.set_yticks([tick for tick in _QUEUE_TICKS if tick <= most])
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.set_ylim(0, most)
        axes.margins(x=0.01)
    panels[-1].set_xlabel("seconds")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    return save(figure, path)


def _draw_line(axes: Axes, line: Sequence[Summary], figure_name: str, label: str, colour: str) -> None:
    loads = [row.load for row in line]
    means = [100 * row.mean[figure_name] for row in line]
    spread = [100 * row.deviation[figure_name] for row in line]
    low = [mean - each for mean, each in zip(means, spread, strict=True)]
    high = [mean + each for mean, each in zip(means, spread, strict=True)]
    axes.fill_between(loads, low, high, color=colour, alpha=0.13, linewidth=0)
    # The default policy lies below, broad, and the others on it, dashed: so lines that coincide are all seen.
    strong = label.startswith("slack")
    axes.plot(
        loads,
        means,
        color=colour,
        linewidth=4.0 if strong else 1.6,
        linestyle="-" if strong else _dashes(label),
        marker="o",
        markersize=7 if strong else 4,
        label=label,
        zorder=2 if strong else 3,
    )


def _dashes(label: str) -> str | tuple[int, tuple[float, ...]]:
    """Policies with EDF are dashed, those with FIFO and their like are not."""
    return (0, (2.5, 1.5)) if label.startswith("edf") else "-"


def _load(row: Summary) -> float:
    return row.load
