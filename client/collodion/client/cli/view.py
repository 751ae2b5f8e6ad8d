"""A job as a person watches it: bars and the picture taking shape on a terminal, a few plain lines elsewhere."""

import contextlib
import datetime
import sys
from types import TracebackType
from typing import Self

import PIL.Image
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from collodion.client.cli import deadlines
from collodion.client.cli.foreign import shown
from collodion.client.cli.halfblocks import HalfBlocks, can_show
from collodion.client.events import (
    Accepted,
    Event,
    Finished,
    ImageFailed,
    ImageReady,
    Preview,
    Reattached,
    StageChanged,
    Warned,
)
from collodion.client.events import Progress as Stepped
from collodion.client.images import decoded
from collodion.client.jobs import Job, Stage

_MOST_BARS = 8
_PREVIEW_COLUMNS = 32
_PREVIEW_ROWS = 16


class View:
    """Shows one job's events on `console`. A context manager: the terminal is left as it was found."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pictures: dict[int, PIL.Image.Image] = {}
        self._tasks: dict[int, TaskID] = {}
        self._ended: set[int] = set()
        self._job: Job | None = None
        self._shows_pictures = can_show(console)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=console, expand=True)
        # Rich may take lines meant for standard output to the terminal only where they would have gone there anyway.
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=8,
            redirect_stdout=sys.stdout.isatty(),
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.quiet:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def take(self, event: Event) -> None:
        """Shows what happened."""
        match event:
            case Accepted(job=job, time=time):
                self.say(f"job {job.job_id}: {_described(job)}")
                self._say_more(deadlines.standing(job, time or datetime.datetime.now(datetime.UTC)))
                self._show_job(job)
                self._job = job
            case Reattached(job=job):
                self.say(f"job {job.job_id}: the connection broke and was made again; it is {job.state}")
            case Warned(message=message):
                self.say(f"warning: {message}")
            case StageChanged(index=index, stage=stage):
                self._advance(index, stage=stage)
            case Stepped(index=index, step=step, steps=steps):
                self._advance(index, done=step, total=steps)
            case Preview(index=index, data=data):
                self._show_picture(index, data)
            case ImageReady(image=image):
                self._advance(image.index, done=image.parameters.steps_run, stage=Stage.DONE)
                self._show_picture(image.index, image.data)
            case ImageFailed(index=index, failure=failure):
                self._advance(index, stage=Stage.STOPPED)
                self.say(f"image {index} failed: {failure.message} ({failure.reason})")
            case Finished() if self._job:
                self._say_more(deadlines.kept(self._job, event))

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(shown(line), markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _say_more(self, text: str) -> None:
        if text:
            self.say(f"  {text}")

    def _show_job(self, job: Job) -> None:
        count = job.parameters.images
        for index in range(count if count <= _MOST_BARS else 0):
            done = next((progress.step for progress in job.progress if progress.index == index), 0)
            self._tasks[index] = self._bars.add_task(
                f"image {index}", total=job.parameters.steps_run or None, completed=done
            )
        if count > _MOST_BARS:
            self._tasks[-1] = self._bars.add_task(f"{count} images", total=count, completed=0)

    def _advance(
        self, index: int, *, done: int | None = None, total: int | None = None, stage: Stage | None = None
    ) -> None:
        if index in self._tasks:
            description = f"image {index} {stage}" if stage else None
            self._bars.update(self._tasks[index], completed=done, total=total, description=description)
        elif -1 in self._tasks and stage in (Stage.DONE, Stage.STOPPED):
            self._ended.add(index)  # a picture's end is told twice: as a stage, and by its arrival
            self._bars.update(self._tasks[-1], completed=len(self._ended))

    def _show_picture(self, index: int, data: bytes) -> None:
        if self._shows_pictures:
            with contextlib.suppress(OSError):  # what this Pillow cannot read is no reason to lose the job
                self._pictures[index] = decoded(data)

    def _render(self) -> RenderableType:
        fits = max(1, self._console.width // (_PREVIEW_COLUMNS + 1))
        shown = sorted(self._pictures)[-fits:]
        columns = min(_PREVIEW_COLUMNS, self._console.width - 1)
        rows = max(4, min(_PREVIEW_ROWS, self._console.height - len(self._tasks) - 2))
        pictures = [HalfBlocks(self._pictures[index], columns, rows) for index in shown]
        return Group(Columns(pictures), self._bars) if pictures else self._bars


def _described(job: Job) -> str:
    parameters = job.parameters
    size = f"{parameters.width}×{parameters.height}"
    place = f", {job.place} jobs before it" if job.place else ""
    run = f"{parameters.steps_run} of " if parameters.strength is not None else ""
    loras = "".join(f", {lora.name} {lora.scale:g}" for lora in parameters.loras)
    cache = f", step cache {parameters.step_cache:g}" if parameters.step_cache else ""
    drawn = f"{run}{parameters.steps} steps of {parameters.sampler}, seed {parameters.seed}"
    return f"{parameters.model} {size}, {drawn}{loras}{cache}{place}"
