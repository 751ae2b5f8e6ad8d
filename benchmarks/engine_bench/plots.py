"""The plot: for each model pictures a second by batch, and the seconds of one picture beside its floor."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes

from engine_bench.columns import AUTO, DIFFUSERS, PLAIN
from simulation.style import INK, new_figure, save

_OWN = {DIFFUSERS: "#8a8f94", PLAIN: "#56b4e9", AUTO: "#0072b2"}
_FLOOR = "#c8372d"

Cells = Sequence[Mapping[str, Any]]


def plot(models: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """A row for each model that has cells; None if none has."""
    measured = [(model, _main_cells(model)) for model in models]
    measured = [(model, cells) for model, cells in measured if cells]
    if not measured:
        return None
    figure = new_figure(12.0, 0.6 + 4.4 * len(measured))
    panels = figure.subplots(len(measured), 2, squeeze=False)
    for (model, cells), (left, right) in zip(measured, panels, strict=True):
        names = list(dict.fromkeys(cell["column"] for cell in cells))
        colours = colours_of(names)
        _draw_batches(left, cells, colours)
        _draw_one(right, cells, colours)
        width, height = model["size"]
        left.set_title(f"{model['model']}, {width}x{height}, {model['main_steps']} steps", loc="left")
    return save(figure, path)


def colours_of(names: Sequence[str]) -> dict[str, Any]:
    """A colour for each column, the same for those that every run has."""
    shades = colormaps["tab20"].colors  # type: ignore[attr-defined]  # a ListedColormap
    spare = itertools.cycle((*shades[2:14], *shades[16:18]))  # neither blue nor grey, which are taken
    return {name: _OWN[name] if name in _OWN else next(spare) for name in names}


def _main_cells(model: Mapping[str, Any]) -> Cells:
    cells = [cell for cell in model["cells"] if cell["steps"] == model["main_steps"]]
    return [cell for cell in cells if cell["column"] != DIFFUSERS or cell["group"] == 0]


def _draw_batches(axes: Axes, cells: Cells, colours: Mapping[str, Any]) -> None:
    batches = sorted({cell["batch"] for cell in cells})
    for name, colour in colours.items():
        mine = sorted((cell for cell in cells if cell["column"] == name), key=lambda cell: cell["batch"])
        width = 2.6 if name in _OWN else 1.2
        axes.plot(
            [cell["batch"] for cell in mine],
            [cell["images_per_s"] for cell in mine],
            color=colour,
            marker="o",
            markersize=4,
            linewidth=width,
            label=name,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("pictures in a batch")
    axes.set_ylabel("pictures a second")
    axes.legend(frameon=False, fontsize=7, ncols=2)


def _draw_one(axes: Axes, cells: Cells, colours: Mapping[str, Any]) -> None:
    """Bars for the smallest batch; whiskers are the range of the rounds."""
    least = min(cell["batch"] for cell in cells)
    bars = sorted((cell for cell in cells if cell["batch"] == least), key=lambda cell: -float(cell["image_s"]))
    for place, cell in enumerate(bars):
        low, high = (cell["total_s"][end] / least for end in ("least", "most"))
        middle = cell["image_s"]
        axes.barh(place, middle, color=colours[cell["column"]], xerr=[[middle - low], [high - middle]], ecolor=INK)
    axes.set_yticks(range(len(bars)), [cell["column"] for cell in bars])
    floor = bars[0]["floor_s"] / least if "floor_s" in bars[0] else None
    if floor is not None:
        axes.axvline(floor, color=_FLOOR, linewidth=1.4, label="matrix floor of the model calls")
        axes.legend(frameon=False, fontsize=7)
    axes.set_xlabel(f"seconds a picture at batch {least}")
