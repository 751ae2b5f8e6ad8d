"""Columns that are in memory together: all that is measured of them, diffusers' own among them."""

import logging
from collections.abc import Callable
from typing import Any

import torch

from engine_bench import profiles, strangers
from engine_bench.cells import Cell, cells_of, saturated
from engine_bench.clocks import release
from engine_bench.columns import AUTO, DIFFUSERS, PLAIN
from engine_bench.diffusers_side import DiffusersSide
from engine_bench.drawing import Contestant
from engine_bench.floor import Work
from engine_bench.likeness import Reference
from engine_bench.options import Settings
from engine_bench.our_side import OurSide
from engine_bench.results import Progress
from engine_bench.rounds import Rounds
from engine_bench.subjects import Subject

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)
_CROWD_STEPS = {"cpu": 12, "cuda": 30}
_CROWDED = {"cpu": (AUTO,), "cuda": (PLAIN, AUTO, "all")}
_log = logging.getLogger(__name__)


class Notes:
    """A model's figures as they grow. save: puts them on the disk."""

    def __init__(
        self, figures: dict[str, Any], progress: Progress, budget_s: float | None, save: Callable[[], None]
    ) -> None:
        self.figures = figures
        self.progress = progress
        self.save = save
        self._budget_s = budget_s

    def begin(self, what: str) -> None:
        """Says what is begun."""
        self.progress.begin(f"{self.figures['model']}: {what}")

    def go_on(self, what: str) -> None:
        """Says it if nothing was said for long."""
        self.progress.go_on(f"{self.figures['model']}: {what}")

    def leave_out(self, what: str, reason: str) -> None:
        """Something is not measured."""
        self.figures["left_out"].append([what, reason])
        self.save()

    def out_of_time(self, what: str) -> bool:
        """Whether the time for this has run out, which is noted."""
        if self._budget_s is None or self.progress.elapsed_s < self._budget_s:
            return False
        self.leave_out(what, "no time was left")
        return True


class Group:
    """See the module. number: which of the model's. work, reference: None if they are not known. rate: of matrices, operations a second."""

    def __init__(
        self,
        number: int,
        sides: dict[str, Contestant],
        subject: Subject,
        settings: Settings,
        notes: Notes,
        work: Work,
        rate: float,
    ) -> None:
        self._number = number
        self._sides = sides
        self._subject = subject
        self._settings = settings
        self._notes = notes
        self._work = work
        self._rate = rate
        self._main_steps: int = notes.figures["main_steps"]
        self._speeds: dict[str, dict[int, float]] = {name: {} for name in sides}
        self._batches = settings.batches_of(subject.batches)
        # The least batch that a column is not measured with.
        self._too_large = {
            one.name: settings.most_of(one, subject.batches) + 1 for one in settings.columns if one.name in sides
        }

    def compare(self, reference: Reference) -> None:
        """How far they are from float32."""
        for name, side in list(self._sides.items()):
            noted = self._notes.figures["columns"][name]
            if "likeness" in noted:
                continue
            self._notes.begin(f"{name} beside float32")
            try:
                noted["likeness"] = reference.compare(side)
            except Exception as error:  # a loop's edge: a column that cannot draw is out, the others go on
                self._fail(name, "likeness", error)
                self._sides.pop(name)
            self._notes.save()

    def measure_speed(self) -> None:
        """All cells; then larger and larger batches of those that still gain by it."""
        settings, also = self._settings, self._settings.steps
        also = self._subject.also_steps if also is None else also
        for name in self._sides:
            if self._bound(name) <= max(self._batches):
                reason = "what is compiled is made ready for smaller batches (--most-compiled)"
                self._notes.leave_out(f"{name}: batches of {self._bound(name)} and more", reason)
        for cell in cells_of(self._batches, self._main_steps, also, crossed=settings.crossed):
            self._measure(cell, [name for name in self._sides if cell.batch < self._bound(name)])
        batch, growing = 2 * max(self._batches), list(self._sides)
        while settings.saturate and batch <= settings.most:
            growing = [name for name in growing if batch < self._bound(name) and not saturated(self._speeds[name])]
            if not growing:
                return
            self._measure(Cell(batch, self._main_steps), growing)
            batch *= 2

    def measure_strangers(self, theirs: DiffusersSide) -> None:
        """Of the columns that stand for the others."""
        kind = self._settings.place.type
        batch, steps = max(self._batches), _CROWD_STEPS[kind]
        for name, side in self._sides.items():
            if (
                name not in _CROWDED[kind]
                or not isinstance(side, OurSide)
                or self._notes.out_of_time(f"strangers of {name}")
            ):
                continue
            self._notes.begin(f"strangers as many as a batch of {batch}: {name}")
            try:
                said = strangers.measure(side, theirs, self._subject, batch, steps, self._settings.rounds)
                self._notes.figures["strangers"].append({"column": name, **said})
            except Exception as error:  # as in compare
                self._fail(name, "strangers", error)
            self._notes.save()

    def profile(self) -> None:
        """Where a step's time goes, in the smallest and the largest batch."""
        batches = sorted({min(self._batches), max(self._batches)})
        for name, side in self._sides.items():
            for batch in batches:
                if self._notes.out_of_time(f"profile of {name}"):
                    return
                self._notes.begin(f"profile of {name}, batch {batch}")
                try:
                    said = profiles.profiled(side, self._subject.jobs(batch, profiles.STEPS), self._settings.place)
                    self._notes.figures["profiles"].setdefault(name, {})[str(batch)] = said
                except Exception as error:  # as in compare
                    self._fail(name, f"profile of batch {batch}", error)
                self._notes.save()

    def _measure(self, cell: Cell, names: list[str]) -> None:
        if not names or self._notes.out_of_time(f"{cell}: {', '.join(names)}"):
            return
        self._notes.begin(f"{cell}: {', '.join(names)}")
        sides = {name: self._sides[name] for name in names}
        rounds = Rounds(cell, self._subject, sides, self._settings.place, self._settings.clock)
        rounds.run(self._settings.rounds, self._notes.go_on)
        for name, error in rounds.failures.items():
            self._fail(name, str(cell), error)
            self._too_large[name] = cell.batch if isinstance(error, OUT_OF_MEMORY) else 0
            release(self._settings.place)
        floor_s = self._work.floor_s(cell.batch, cell.steps, self._rate)
        against = rounds.samples.get(DIFFUSERS)
        for name, samples in rounds.samples.items():
            said = samples.figures(cell, None if name == DIFFUSERS else against, floor_s)
            place = {"column": name, "batch": cell.batch, "steps": cell.steps, "group": self._number}
            self._notes.figures["cells"].append({**place, **said})
            if cell.steps == self._main_steps:
                self._speeds[name][cell.batch] = said["images_per_s"]
        self._notes.save()

    def _bound(self, name: str) -> float:
        """The least batch that it is not measured with."""
        return self._too_large.get(name, float("inf"))

    def _fail(self, name: str, what: str, error: Exception) -> None:
        expected = isinstance(error, OUT_OF_MEMORY)
        _log.warning("%s of %s: %s", what, name, line_of(error), exc_info=None if expected else error)
        self._notes.leave_out(f"{name}: {what}", line_of(error))


def line_of(error: BaseException) -> str:
    """An error in a line."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:300]}" if said else type(error).__name__
