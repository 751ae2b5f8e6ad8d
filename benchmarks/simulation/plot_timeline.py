"""The timeline: who ran in which step batch, on which worker, and who was in time.

1. A band for each worker, a row in it for each place in the batch; a job has one colour. White lines part the evaluations.
2. Encoding and decoding hold the whole device: grey columns, in which the latents concerned are hatched.
3. A job's deadline is a diamond of its colour above the row in which its last latent was decoded: a dotted line leads from the finish to
   it, the time that was left. Where the job was late, both are rimmed red, and the line leads back.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal, Stroke

from collodion.wire.jobs import LatentId
from simulation.recorder import Segment
from simulation.result import Result
from simulation.slots import Placed, placed
from simulation.style import INK, LATE, PAPER, job_colour, new_figure, save
from simulation.truth import DECODE, ENCODE, STEP
from simulation.world import ORIGIN

_WORKERS_SHOWN = 4
_BOUNDARIES_SHOWN = 2500
_PIECE = 4  # times the median time from release to deadline
_DEVICE_COLOURS = {ENCODE: "#eef0f2", DECODE: "#d9dee2"}

Window = tuple[float, float]


def plot_timeline(result: Result, label: str, window: Window | None, path: Path) -> Path:
    """`window` in seconds of the instance; None takes a piece after the first third of the requests."""
    begin, end = window or _piece(result)
    numbers = {record.job: record.index for record in result.records if record.job}
    bands = _bands(result.segments, begin, end)
    heights = {
        worker: 1 + max((row for each in band for row in each.rows), default=0) for worker, band in bands.items()
    }
    figure = new_figure(13, 1.4 + 0.3 * sum(max(3, height) for height in heights.values()))
    panels = figure.subplots(
        len(bands), 1, sharex=True, squeeze=False, height_ratios=[max(3, height) for height in heights.values()]
    )[:, 0]
    for axes, (worker, band) in zip(panels, bands.items(), strict=True):
        _draw_band(axes, band, heights[worker], numbers)
        _draw_numbers(axes, band, numbers, (begin, end))
        _draw_deadlines(axes, band, result, numbers)
        axes.set(xlim=(begin, end), ylim=(-0.3, heights[worker] + 0.3), yticks=[])
        axes.set_ylabel(result.instance.devices[worker].name, rotation=0, ha="right", va="center")
        axes.grid(False)
        axes.spines["left"].set_visible(False)
    panels[0].set_title(f"{label}: who ran in which step batch", loc="left", fontweight="bold")
    panels[-1].set_xlabel("seconds")
    figure.legend(handles=_legend(), loc="outside lower right", ncols=6, frameon=False)
    return save(figure, path)


def _piece(result: Result) -> Window:
    requests = result.instance.requests
    begin = requests[len(requests) // 3].release
    slos = sorted(each.deadline - each.release for each in requests if each.slo_s is not None)
    return begin, begin + _PIECE * (slos[len(slos) // 2] if slos else 1.0)


def _bands(segments: Sequence[Segment], begin: float, end: float) -> dict[int, list[Placed]]:
    workers = sorted({segment.worker for segment in segments})[:_WORKERS_SHOWN]
    bands = {}
    for worker in workers:
        band = placed(segment for segment in segments if segment.worker == worker)
        bands[worker] = [
            each for each in band if each.segment.end - ORIGIN >= begin and each.segment.start - ORIGIN <= end
        ]
    return bands


def _draw_band(axes: Axes, band: Sequence[Placed], height: int, numbers: dict[str, int]) -> None:
    boundaries: list[list[tuple[float, float]]] = []
    for lane, hatch in ((STEP, ""), (ENCODE, "...."), (DECODE, "////")):
        patches, colours, columns = [], [], []
        for each in (each for each in band if each.segment.lane == lane):
            start, length = each.segment.start - ORIGIN, each.segment.end - each.segment.start
            columns.append(Rectangle((start, -0.1), length, height + 0.2))
            for latent, row in zip(each.segment.latents, each.rows, strict=True):
                patches.append(Rectangle((start, row + 0.12), length, 0.76))
                colours.append(job_colour(numbers.get(latent.job, 0)))
            step = length / max(1, each.segment.evaluations)
            boundaries += [
                [(start + step * index, 0.0), (start + step * index, height)]
                for index in range(each.segment.evaluations + 1)
            ]
        if lane in _DEVICE_COLOURS:
            axes.add_collection(PatchCollection(columns, facecolor=_DEVICE_COLOURS[lane], linewidth=0, zorder=1))
        axes.add_collection(
            PatchCollection(patches, facecolor=colours, edgecolor=PAPER, linewidth=0.3, hatch=hatch, zorder=2)
        )
    if len(boundaries) <= _BOUNDARIES_SHOWN:
        axes.add_collection(LineCollection(boundaries, colors=PAPER, linewidths=0.5, zorder=3))


def _draw_numbers(axes: Axes, band: Sequence[Placed], numbers: dict[str, int], window: Window) -> None:
    """Each job's number where it begins to run, if there is room."""
    room = (window[1] - window[0]) / 60
    drawn: set[LatentId] = set()
    for each in (each for each in band if each.segment.lane == STEP):
        start = max(window[0], each.segment.start - ORIGIN)
        for latent, row in zip(each.segment.latents, each.rows, strict=True):
            if latent not in drawn and each.segment.end - ORIGIN - start > room:
                drawn.add(latent)
                axes.text(
                    start + room / 5,
                    row + 0.48,
                    str(numbers.get(latent.job, "")),
                    fontsize=7,
                    fontweight="bold",
                    color=PAPER,
                    va="center",
                    zorder=6,
                    path_effects=[Stroke(linewidth=1.6, foreground=INK), Normal()],
                )


def _draw_deadlines(axes: Axes, band: Sequence[Placed], result: Result, numbers: dict[str, int]) -> None:
    last: dict[int, tuple[float, int]] = {}
    for each in (each for each in band if each.segment.lane == DECODE):
        for latent, row in zip(each.segment.latents, each.rows, strict=True):
            if latent.job in numbers:
                last[numbers[latent.job]] = each.segment.end - ORIGIN, row
    for number, (finish, row) in last.items():
        request = result.instance.requests[number]
        if request.slo_s is None:
            continue
        rim = INK if result.records[number].on_time else LATE
        line = [finish, request.deadline], [row + 1.0] * 2
        axes.plot(*line, color=rim, linewidth=0.9, linestyle=(0, (1, 1.6)), zorder=4)
        axes.plot(*line, color=job_colour(number), marker="D", markevery=[1], **_diamond(rim), zorder=7)


def _diamond(rim: str) -> dict[str, Any]:
    return {"linestyle": "none", "markersize": 5, "markeredgecolor": rim, "markeredgewidth": 1.3}


def _legend() -> list[Patch | Line2D]:
    shade = job_colour(5)
    return [
        Patch(facecolor=shade, edgecolor=PAPER, label="evaluations of a job"),
        Patch(facecolor=shade, edgecolor=PAPER, hatch="....", label="encoding"),
        Patch(facecolor=shade, edgecolor=PAPER, hatch="////", label="decoding"),
        Line2D([], [], color=shade, marker="D", **_diamond(INK), label="deadline, met"),
        Line2D([], [], color=shade, marker="D", **_diamond(LATE), label="deadline, missed"),
    ]
