"""One model: its columns are loaded, as many at a time as fit beside diffusers' own, measured and let go."""

import logging
from pathlib import Path
from typing import Any

from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.registry import ModelUnusable
from engine_bench.clocks import free_bytes, in_use, release, settle
from engine_bench.columns import DIFFUSERS, Column, columns_of
from engine_bench.diffusers_side import DiffusersSide
from engine_bench.drawing import Contestant
from engine_bench.floor import Work, count_work
from engine_bench.group import OUT_OF_MEMORY, Group, Notes, line_of
from engine_bench.likeness import Reference
from engine_bench.options import Settings
from engine_bench.our_side import OurSide, config_for
from engine_bench.results import Progress, Results
from engine_bench.subjects import Subject

_FOR_WEIGHTS = 0.5  # of the memory that is free; the rest is for batches
_log = logging.getLogger(__name__)


class ModelBench:
    """See the module. scratch: for what a worker stores. rate: of matrices, operations a second."""

    def __init__(
        self, settings: Settings, subject: Subject, rate: float, scratch: Path, results: Results, progress: Progress
    ) -> None:
        self._settings = settings
        self._subject = subject
        self._rate = rate
        self._scratch = scratch
        self._place = settings.place
        figures = _empty(subject, settings.main_steps or subject.steps)
        results.figures["models"].append(figures)
        self._notes = Notes(figures, progress, settings.budget_s, results.save)

    def run(self) -> None:
        """Everything that was asked for; what cannot be measured is noted with its reason."""
        if "likeness" in self._settings.parts:
            reference = self._reference()
        self._notes.begin("loading diffusers' pipeline")
        theirs = DiffusersSide(self._subject, self._settings.torch_dtype, self._place, self._settings.clock)
        try:
            self._note(columns_of([DIFFUSERS])[0], theirs)
            work = count_work(theirs, self._subject)
            self._notes.figures["work"] = {"call_flops": work.call_flops, "ends_flops": work.ends_flops}
            for number, columns in enumerate(self._groups(theirs.weight_bytes)):
                self._measure(number, theirs, columns, work, reference if "likeness" in self._settings.parts else None)
        finally:
            theirs.close()
            release(self._place)
            self._notes.save()

    def _reference(self) -> Reference | None:
        steps: int = self._notes.figures["main_steps"]
        self._notes.begin(f"float32, {steps} steps")
        try:
            return Reference.drawn(self._subject, self._settings.torch_dtype, self._place, steps)
        except OUT_OF_MEMORY as error:
            self._notes.leave_out("likeness", f"float32 does not fit: {line_of(error)}")
            release(self._place)
            return None

    def _groups(self, weight_bytes: int) -> list[list[Column]]:
        """Columns of ours that are in memory together; one group without any if only diffusers' is asked for."""
        ours = [column for column in self._settings.columns if column.ours]
        fitting = int(_FOR_WEIGHTS * free_bytes(self._place) / max(1, weight_bytes))
        size = max(1, self._settings.resident or fitting)
        return [ours[at : at + size] for at in range(0, len(ours), size)] or [[]]

    def _measure(
        self, number: int, theirs: DiffusersSide, columns: list[Column], work: Work, reference: Reference | None
    ) -> None:
        sides: dict[str, Contestant] = {DIFFUSERS: theirs}
        try:
            for column in columns:
                side = self._loaded(column)
                if side is not None:
                    sides[column.name] = side
            self._run(
                Group(number, sides, self._subject, self._settings, self._notes, work, self._rate), theirs, reference
            )
        finally:
            for name, one in sides.items():
                if isinstance(one, OurSide):
                    self._notes.figures["columns"][name]["at_end"] = one.events.figures()
                    one.close()
            sides.clear()
            release(self._place)
            self._notes.save()

    def _run(self, group: Group, theirs: DiffusersSide, reference: Reference | None) -> None:
        parts = self._settings.parts
        if reference is not None:
            group.compare(reference)
        if "speed" in parts:
            group.measure_speed()
        if "strangers" in parts:
            group.measure_strangers(theirs)
        if "profile" in parts:
            group.profile()

    def _loaded(self, column: Column) -> OurSide | None:
        if self._notes.out_of_time(f"{column.name}: all"):
            return None
        self._notes.begin(f"loading {column.name} ({column.said})")
        before = in_use(self._place)
        most = self._settings.most_of(column, self._subject.batches)
        config = config_for(column, self._settings, self._subject.size, most, self._scratch)
        columns = self._notes.figures["columns"]
        try:
            side = OurSide(self._subject, column, config, self._settings.clock)
        except (Unsuitable, ModelUnusable) as error:
            columns[column.name] = {"said": column.said, "refused": error.reason}
        except (
            Exception
        ) as error:  # a loop's edge: whatever a package does when it is asked for, the other columns go on
            _log.warning("%s cannot be loaded", column.name, exc_info=error)
            columns[column.name] = {"said": column.said, "refused": line_of(error)}
        else:
            settle(self._place)
            self._note(column, side, in_use(self._place) - before)
            return side
        release(self._place)
        self._notes.save()
        return None

    def _note(self, column: Column, side: Contestant, resident_bytes: int | None = None) -> None:
        noted: dict[str, Any] = {"said": column.said, "words": list(column.words), "weight_bytes": side.weight_bytes}
        if isinstance(side, OurSide):
            noted |= {
                "resident_bytes": resident_bytes,
                "start_s": side.start_s,
                "parts_s": side.parts_s,
                "at_start": side.events.figures(),
                "optimizations": [[one.name, one.value, one.detail] for one in side.optimizations],
            }
        self._notes.figures["columns"][column.name] = noted
        self._notes.save()


def _empty(subject: Subject, main_steps: int) -> dict[str, Any]:
    return {
        "model": subject.name,
        "pipeline": subject.source.pipeline,
        "weights": "random" if subject.random else str(subject.source.path),
        "size": list(subject.size),
        "sampler": subject.sampler,
        "guidance_scale": subject.guidance_scale,
        "main_steps": main_steps,
        "columns": {},
        "cells": [],
        "strangers": [],
        "profiles": {},
        "left_out": [],
    }
