"""Jobs that begin from a picture: they skip steps, and what they begin from is not deleted under them."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from scheduler_world import FakeFrontend, World, spec

from collodion.scheduler.pruning import Pruner
from collodion.wire.artifacts import DirectoryStore
from collodion.wire.jobs import DeadlinePolicy, JobSpec
from collodion.wire.to_frontend import Progressed, Refused


def begun(strength: float, mask: str = "", **what: Any) -> JobSpec:
    """A job that begins from a picture."""
    asked = spec(**what)
    changed = {"init_image": "uploads/a.png", "mask_image": mask, "strength": strength}
    return msgspec.structs.replace(asked, parameters=msgspec.structs.replace(asked.parameters, **changed))


def world() -> tuple[World, FakeFrontend]:
    """One idle worker whose costs are known: 10 ms an evaluation."""
    made = World()
    made.core.costs.load("", "shapes/64x64", {"step": {1: 0.01, 4: 0.02}, "encode": {1: 0.01}, "decode": {1: 0.01}})
    frontend = made.frontend()
    made.worker()
    made.settle()
    return made, frontend


def test_progress_is_of_the_steps_that_are_run() -> None:
    made, frontend = world()
    call = frontend.submit(begun(0.5, steps=8))
    made.run()
    told = frontend.of(call, Progressed)
    assert [(event.step, event.steps) for event in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    (view,) = made.stored.values()
    assert [(image.step, image.steps) for image in view.progress] == [(4, 4)]
    assert view.spec.parameters.steps == 8


def test_a_job_that_skips_steps_costs_less() -> None:
    made, frontend = world()
    whole = frontend.submit(spec(steps=50, slo_s=0.3, deadline_policy=DeadlinePolicy.REFUSE))
    half = frontend.submit(begun(0.4, steps=50, slo_s=0.3, deadline_policy=DeadlinePolicy.REFUSE))
    made.settle()
    assert isinstance(frontend.answers[whole], Refused)
    assert frontend.events[half][0].view.promised


def test_steps_are_left_out_only_so_far_that_one_is_run() -> None:
    made, frontend = world()
    asked = begun(0.2, steps=100, slo_s=0.025, deadline_policy=DeadlinePolicy.DEGRADE, min_steps=1)
    call = frontend.submit(asked)
    made.settle()
    refused = frontend.answers[call]
    assert refused.offer is None or refused.offer.steps is None or refused.offer.steps >= 5
    made, frontend = world()
    frontend.submit(msgspec.structs.replace(asked, slo_s=0.045))
    made.settle()
    (accepted,) = made.core.book.live.values()
    assert accepted.promised
    assert accepted.evaluations == accepted.spec.parameters.steps_run >= 1


@pytest.mark.parametrize("strength", [0.0, 1.5, 0.1])
def test_a_job_with_no_step_to_run_is_refused_even_if_a_frontend_let_it_pass(strength: float) -> None:
    made, frontend = world()
    call = frontend.submit(begun(strength, steps=8))
    made.settle()
    assert "strength" in frontend.answers[call].message


def test_what_a_job_begins_from_is_needed_until_it_ends() -> None:
    made, frontend = world()
    frontend.submit(begun(0.5, steps=4, mask="uploads/m.png"))
    frontend.submit(spec(steps=4))
    made.settle()
    assert made.core.book.uploads() == {"uploads/a.png", "uploads/m.png"}
    made.run()
    assert made.core.book.uploads() == set()


def test_the_pruner_asks_what_is_needed_whenever_it_prunes(tmp_path: Path) -> None:
    needed = {"uploads/a.png"}
    asked = []

    class Store(DirectoryStore):
        def prune(self, max_age_s: float, max_bytes: int, needed: Any = ()) -> int:
            asked.append(set(needed))
            pruner.stop()
            return 0

    pruner = Pruner(Store(tmp_path), 1, 1, 0.001, lambda: needed)
    pruner.start()
    pruner.join(10)
    assert asked == [{"uploads/a.png"}]
