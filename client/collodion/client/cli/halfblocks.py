"""A picture in a terminal: two pixels a character, as the colours of an upper half block and of what is behind it."""

import PIL.Image
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style

_UPPER_HALF = "▀"


def can_show(console: Console) -> bool:
    """Whether the terminal has the colours and the characters for it."""
    colours = console.color_system in ("truecolor", "256") and not console.no_color
    return console.is_terminal and colours and console.encoding.startswith("utf") and console.width >= 20


class HalfBlocks:
    """A picture, at most `columns` wide and `rows` high, in characters; its proportions are kept."""

    def __init__(self, picture: PIL.Image.Image, columns: int, rows: int) -> None:
        scale = min(columns / picture.width, 2 * rows / picture.height)
        width = max(1, round(picture.width * scale))
        height = max(2, 2 * round(picture.height * scale / 2))
        self._picture = picture.convert("RGB").resize((width, height), PIL.Image.Resampling.BOX)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(self._picture.width, self._picture.width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        pixels, width = self._picture.tobytes(), self._picture.width
        for row in range(0, self._picture.height, 2):
            for column in range(min(width, options.max_width)):
                upper, lower = 3 * (row * width + column), 3 * ((row + 1) * width + column)
                yield Segment(_UPPER_HALF, _style(pixels[upper : upper + 3], pixels[lower : lower + 3]))
            yield Segment.line()


def _style(upper: bytes, lower: bytes) -> Style:
    return Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower))
