"""The plot of profiles: four panels of milliseconds against batch size, a line for each profile, with the quartiles as a band.

Drawn with Pillow, which the client has anyway: twice as large as it is shown, then halved, which makes the lines smooth.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from collodion.process.profile import Profile

Quartiles = Mapping[str, Mapping[int, tuple[float, float]]]

_SCALE = 2
_WIDTH, _HEIGHT = 1200, 860
_HEAD, _FOOT = 64, 16  # above and below the panels; a line of the legend takes _LEGEND more
_LEGEND = 24
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 28, 44, 52  # of a panel, around its axes
_TICKS = 5

_INK, _FAINT, _GRID = "#1f2328", "#59636e", "#e4e7eb"
# Okabe and Ito's colours, which the colour-blind can tell apart, in an order that begins with the darkest.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True)
class _Panel:
    title: str
    lane: str
    share: Callable[[float, int], float]


_PANELS = (
    _Panel("One evaluation (step)", "step", lambda seconds, _: seconds),
    _Panel("One evaluation, an image", "step", lambda seconds, batch: seconds / batch),
    _Panel("Encoding prompts", "encode", lambda seconds, _: seconds),
    _Panel("Decoding pictures", "decode", lambda seconds, _: seconds),
)

_Series = list[tuple[str, list[tuple[int, float, float, float]]]]
"""Colour, and batch, median, lower and upper quartile in ms of each point."""


def draw(results: Sequence[tuple[Profile, Quartiles]]) -> PIL.Image.Image:
    """The picture, RGB."""
    height = _HEIGHT + _LEGEND * len(results)
    image = PIL.Image.new("RGB", (_WIDTH * _SCALE, height * _SCALE), "white")
    pen = _Pen(PIL.ImageDraw.Draw(image, "RGBA"))
    pen.text(24, 22, "Milliseconds against batch size", 22, _INK)
    top = _HEAD
    for index, (profile, _) in enumerate(results):
        pen.line([(24, top + 8), (52, top + 8)], _COLOURS[index % len(_COLOURS)], 3)
        label = f"{profile.name}   {profile.key} on {profile.device_kind}"
        pen.text(62, top, label, 13, _INK)
        top += _LEGEND
    side, tall = _WIDTH // 2, (height - top - _FOOT) // 2
    for index, panel in enumerate(_PANELS):
        corner = (index % 2 * side, top + index // 2 * tall)
        _draw_panel(pen, panel, _series(panel, results), corner, (side, tall))
    return image.resize((_WIDTH, height), PIL.Image.Resampling.LANCZOS)


def _series(panel: _Panel, results: Sequence[tuple[Profile, Quartiles]]) -> _Series:
    series: _Series = []
    for index, (profile, quartiles) in enumerate(results):
        points = []
        for batch, seconds in sorted(profile.lanes.get(panel.lane, {}).items()):
            around = quartiles.get(panel.lane, {}).get(batch, (seconds, seconds))
            median, low, high = (1000 * panel.share(each, batch) for each in (seconds, *around))
            points.append((batch, median, low, high))
        series.append((_COLOURS[index % len(_COLOURS)], points))
    return series


def _draw_panel(pen: "_Pen", panel: _Panel, series: _Series, corner: tuple[int, int], extent: tuple[int, int]) -> None:
    points = [point for _, line in series for point in line]
    left, top = corner[0] + _LEFT, corner[1] + _TOP
    width, height = extent[0] - _LEFT - _RIGHT, extent[1] - _TOP - _BOTTOM
    pen.text(left, corner[1] + 12, panel.title, 15, _INK)
    pen.text(left + width, corner[1] + 14, "ms", 12, _FAINT, "ra")
    if not points:
        pen.text(left + width / 2, top + height / 2, "not measured", 13, _FAINT, "mm")
        return
    ticks = _nice_ticks(max(high for *_, high in points))
    last = max(batch for batch, *_ in points)

    def at(batch: float, ms: float) -> tuple[float, float]:
        return left + width * (batch - 0.5) / last, top + height * (1 - ms / ticks[-1])

    for tick in ticks:
        level = at(1, tick)[1]
        pen.line([(left, level), (left + width, level)], _FAINT if tick == 0 else _GRID, 1)
        pen.text(left - 8, level, f"{tick:g}", 12, _FAINT, "rm")
    for batch in _batch_ticks(last):
        pen.text(at(batch, 0)[0], top + height + 8, str(batch), 12, _FAINT, "ma")
    pen.text(left + width / 2, top + height + 28, "images in the batch", 12, _FAINT, "ma")
    for colour, line in series:
        _draw_line(pen, colour, [(at(batch, ms), at(batch, low), at(batch, high)) for batch, ms, low, high in line])


def _draw_line(pen: "_Pen", colour: str, line: Sequence[tuple[tuple[float, float], ...]]) -> None:
    if len(line) > 1:
        pen.area([low for _, low, _ in line] + [high for *_, high in reversed(line)], colour + "33")
        pen.line([middle for middle, *_ in line], colour, 2)
    for middle, *_ in line:
        pen.dot(middle, colour)


def _nice_ticks(highest: float) -> list[float]:
    """From 0 to the first round number at or above `highest`."""
    rough = max(highest, 1e-6) / _TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(round_ * power for round_ in (1, 2, 2.5, 5, 10) if round_ * power >= rough)
    return [step * number for number in range(math.ceil(highest / step - 1e-9) + 1)]


def _batch_ticks(last: int) -> list[int]:
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128) if last / step <= 16)
    return [1, *range(step, last + 1, step)] if step > 1 else [*range(1, last + 1)]


class _Pen:
    """Draws in the picture's own pixels on one that is _SCALE times as large."""

    def __init__(self, draw: PIL.ImageDraw.ImageDraw) -> None:
        self._draw = draw

    def text(self, x: float, y: float, words: str, size: int, colour: str, anchor: str = "la") -> None:
        font = PIL.ImageFont.load_default(size * _SCALE)
        self._draw.text((x * _SCALE, y * _SCALE), words, fill=colour, font=font, anchor=anchor)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: int) -> None:
        self._draw.line(self._scaled(points), fill=colour, width=width * _SCALE, joint="curve")

    def area(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        self._draw.polygon(self._scaled(points), fill=colour)

    def dot(self, centre: tuple[float, float], colour: str) -> None:
        ((x, y),) = self._scaled([centre])
        radius = 3.5 * _SCALE
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline="white", width=_SCALE)

    def _scaled(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * _SCALE, y * _SCALE) for x, y in points]
