"""How all plots look, and which colour a scheduler has in all of them."""

import colorsys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

mpl.use("Agg")

INK, PAPER, GRID = "#22303c", "#ffffff", "#e3e7ea"
LATE = "#c8372d"
# Okabe and Ito's colours, told apart by the colour-blind too; the default policy has the strongest.
_OF_POLICY = {
    "slack": "#0072b2",
    "edf+predict": "#009e73",
    "edf+drop": "#e69f00",
    "fifo+drop": "#cc79a7",
    "fifo": "#8a8f94",
    "static": "#b5a26a",
}
_OTHERS = ("#d55e00", "#56b4e9", "#6a3d9a", "#5a7d2b", "#a05a2c", "#444444")
_DOTS_PER_INCH = 160


def policy_colours(labels: Sequence[str]) -> dict[str, str]:
    """One for each label; a label is a policy's name, or begins with it and a comma."""
    colours: dict[str, str] = {}
    spare = iter(_OTHERS * (1 + len(labels)))
    for label in labels:
        own = _OF_POLICY.get(label.partition(",")[0])
        colours[label] = own if own and own not in colours.values() else next(spare)
    return colours


def job_colour(number: int) -> tuple[float, float, float]:
    """One for each job, such that those of neighbours differ."""
    hue = (number * 0.61803398875) % 1.0  # the golden ratio spreads them
    return colorsys.hls_to_rgb(hue, (0.56, 0.66, 0.48)[number % 3], 0.58)


def new_figure(width: float, height: float) -> Figure:
    """In inches."""
    figure = Figure(figsize=(width, height), facecolor=PAPER, layout="constrained")
    mpl.rcParams.update(
        {
            "font.family": "DejaVu Sans",
            "font.size": 9,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": "#9aa5ad",
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.grid": True,
            "grid.color": GRID,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "hatch.linewidth": 0.6,
        }
    )
    return figure


def save(figure: Figure, path: Path) -> Path:
    """As PNG; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DOTS_PER_INCH)
    return path
