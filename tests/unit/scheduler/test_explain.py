"""Why a job waits, as its client is told, and what would let it finish sooner: it has to be true."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from scheduler_world import FakeFrontend, SimulatedWorker, World, spec

from collodion.scheduler.config import PolicyName
from collodion.scheduler.wording import counted, listed, moment, span
from collodion.wire.jobs import DeadlinePolicy
from collodion.wire.to_frontend import Explanation, Refused


def start(policy: PolicyName = PolicyName.SLACK, **more: Any) -> tuple[World, FakeFrontend, SimulatedWorker]:
    """One worker, whose costs are known: 0.01 s an evaluation, a little more for two at a time, and nothing else."""
    settings = {name: more.pop(name) for name in list(more) if name not in ("max_batch", "max_resident")}
    world = World(policy=policy, **settings)
    worker = world.worker(**{"max_batch": 1, **more})
    frontend = world.frontend()
    world.settle()
    costs = {"step": {1: 0.01, 2: 0.012, 4: 0.016}, "decode": {1: 1e-6}}
    world.core.costs.load("cpu", "shapes/64x64", costs, noise=0.0, weight=1e6)
    return world, frontend, worker


def why(world: World, frontend: FakeFrontend, call: int) -> Explanation:
    asked = frontend.get(frontend.job(call))
    world.settle()
    explanation = frontend.answers[asked].view.explanation
    assert isinstance(explanation, Explanation)
    return explanation


def submit(world: World, frontend: FakeFrontend, **what: Any) -> int:
    call = frontend.submit(spec(**what))
    world.settle()
    return call


def turned_away(world: World, frontend: FakeFrontend, **more: Any) -> int:
    """A job whose deadline, in 0.4 s, cannot be promised, behind one that is promised and takes 0.3 s."""
    submit(world, frontend, steps=30, slo_s=0.35)
    return submit(world, frontend, steps=30, slo_s=0.4, **more)


# ---------------------------------------------------------------------- in line, and in the works


def test_a_promised_job_is_told_how_many_are_promised_earlier_and_by_how_much_its_promise_is_early() -> None:
    world, frontend, _ = start()
    submit(world, frontend, steps=10, images=5, slo_s=30)
    late = submit(world, frontend, steps=10, images=2, slo_s=60)
    said = why(world, frontend, late).summary
    assert said.startswith(
        "its 2 images wait in the line of worker-worker-0 behind 5 that are promised earlier deadlines; "
        "the first of them begins in about 0.5 s; its promise ("
    )
    assert re.search(r" UTC\) has (59|60) s to spare$", said)


def test_it_begins_when_that_was_said() -> None:
    world, frontend, worker = start()
    submit(world, frontend, steps=20, images=3, slo_s=30)
    late = submit(world, frontend, steps=10, slo_s=60)
    began = re.search(r"it begins in about (\S+) s", why(world, frontend, late).summary)
    assert began
    asked = world.now
    while not worker.batches or worker.batches[-1][0].job != frontend.job(late):
        world.step()
    assert world.now - asked == pytest.approx(float(began[1]), abs=0.06)


def test_a_job_that_waits_for_its_own_images_is_told_so() -> None:
    world, frontend, _ = start()
    call = submit(world, frontend, steps=10, images=3)
    world.step(2)
    assert (
        "2 of its 3 images wait in the line of worker-worker-0 behind 1 of its own"
        in why(world, frontend, call).summary
    )


def test_a_job_that_runs_is_told_how_far_it_is_and_beside_whom() -> None:
    world, frontend, _ = start(max_batch=2)
    call = submit(world, frontend, steps=30)
    submit(world, frontend, steps=30)
    world.step(12)
    said = why(world, frontend, call).summary
    assert said.startswith("denoising at worker-worker-0 beside 1 other: 12 of 30 evaluations; its promise (")


def test_a_job_whose_picture_is_only_to_be_decoded_is_told_so() -> None:
    world, frontend, worker = start()
    call = submit(world, frontend, steps=3)
    while not any(report.stage.value == "decoding" for report in worker.latents.values()):
        world.step()
    assert why(world, frontend, call).summary.startswith("its image is past the last step")


def test_what_came_just_now_joins_the_step_batch_at_the_next_boundary() -> None:
    world, frontend, _ = start(max_batch=2)
    call = submit(world, frontend, images=2)
    said = why(world, frontend, call).summary
    assert said.startswith("its 2 images join the step batch of worker-worker-0 at the next boundary")


# ---------------------------------------------------------------------- not promised


def test_a_job_that_was_turned_away_is_told_why_it_waits_and_when_its_patience_ends() -> None:
    world, frontend, _ = start()
    calls = [turned_away(world, frontend) for _ in range(3)]
    said = why(world, frontend, calls[0]).summary
    assert "requests were turned away lately, so what has no promise waits" in said
    assert "(its patience ends in 5 min)" in said
    assert re.search(r"it is not promised, and it is expected \S+ s after its deadline", said)


def test_a_job_that_waited_past_the_patience_is_told_that_it_goes_first_when_it_can() -> None:
    world, frontend, _ = start(patience_s=0.05)
    call = turned_away(world, frontend)
    world.step(8)
    assert "waited past the patience" in why(world, frontend, call).summary


def test_a_job_that_would_break_a_promise_in_a_step_batch_is_told_so() -> None:
    world, frontend, _ = start(max_batch=2)
    submit(world, frontend, steps=30, slo_s=0.33)
    call = submit(world, frontend, steps=30, tier="batch")
    assert "with it in a step batch a promise would be broken" in why(world, frontend, call).summary


def test_fewer_steps_that_are_offered_can_be_promised_and_one_more_cannot() -> None:
    world, frontend, _ = start()
    call = turned_away(world, frontend)
    remedy = next(one for one in why(world, frontend, call).remedies if "steps" in one)
    steps = int(remedy.split()[0])
    assert remedy == f"{counted(steps, 'step', 'steps')} instead of 30 could be promised by its deadline"
    refused = submit(world, frontend, steps=steps + 1, slo_s=0.4, deadline_policy=DeadlinePolicy.REFUSE)
    accepted = submit(world, frontend, steps=steps, slo_s=0.4, deadline_policy=DeadlinePolicy.REFUSE)
    assert isinstance(frontend.answers[refused], Refused)
    assert frontend.events[accepted][0].view.promised


def test_a_tier_that_is_offered_promises_it_sooner() -> None:
    world, frontend, _ = start()
    submit(world, frontend, steps=30, images=3)
    call = submit(world, frontend, steps=10, tier="batch")
    submit(world, frontend, steps=30, images=40, tier="batch")
    world.step()
    remedies = why(world, frontend, call).remedies
    assert any(remedy.startswith("tier interactive: that could be promised") for remedy in remedies)
    again = submit(world, frontend, steps=10, tier="interactive")
    assert frontend.events[again][0].view.promised


def test_a_job_that_is_promised_is_offered_no_other_promise() -> None:
    world, frontend, _ = start()
    submit(world, frontend, steps=30, slo_s=30)
    remedies = why(world, frontend, submit(world, frontend, steps=30)).remedies
    assert [remedy.split(",")[0] for remedy in remedies] == ["another worker that has the model shapes"]


def test_another_worker_saves_what_was_said() -> None:
    world, frontend, _ = start()
    submit(world, frontend, steps=30, images=3, slo_s=30)
    call = submit(world, frontend, steps=30)
    said = why(world, frontend, call).remedies[-1]
    assert said.endswith("or nobody before it: it would be done in about 0.3 s, 0.9 s sooner")


def test_asking_often_costs_little() -> None:
    world, frontend, _ = start()
    call = turned_away(world, frontend)
    for _ in range(40):
        submit(world, frontend, steps=10, images=5)
    planner = world.core._lifecycle._dispatch._policy.planner  # type: ignore[attr-defined]
    before = planner.played
    for _ in range(100):
        why(world, frontend, call)
    assert planner.played - before < 3_000


# ---------------------------------------------------------------------- whatever the policy


def test_a_job_that_is_not_durable_yet_is_told_of_by_nobody() -> None:
    world, frontend, _ = start()
    world.persisting = False
    submit(world, frontend)
    explain = world.core._intake._explainer.explain
    (job,) = world.core.book.live.values()
    assert explain(job, world.now).summary.startswith("it is not durable yet")


def test_a_job_without_a_worker_for_its_model_is_told_which_it_waits_for() -> None:
    world, frontend, worker = start()
    call = submit(world, frontend, steps=50)
    worker.leave()
    world.settle()
    explanation = why(world, frontend, call)
    assert explanation.summary == "it waits for a worker that has the model shapes: none is alive"
    assert explanation.remedies == ("such a worker",)


def test_a_job_whose_client_hung_up_is_told_until_when_it_is_kept() -> None:
    world, frontend, _ = start(grace_s=7.0)
    call = submit(world, frontend, steps=50)
    frontend.leave(call)
    explanation = why(world, frontend, call)
    assert explanation.summary == "it is set aside, because its client hung up, and cancelled in 7.0 s"
    frontend.watch(frontend.job(call))
    world.settle()
    assert "set aside" not in why(world, frontend, call).summary, "the remedy helps"


def test_a_job_of_unknown_costs_is_told_so() -> None:
    world, frontend, _ = start()
    submit(world, frontend, steps=50)
    call = submit(world, frontend, steps=50, width=128)
    assert "its costs are not known yet" in why(world, frontend, call).summary


def test_a_job_that_no_worker_has_room_to_hold_is_told_so() -> None:
    world, frontend, _ = start(PolicyName.FIFO, max_resident=1)
    submit(world, frontend, steps=50)
    call = submit(world, frontend, steps=50)
    assert "every worker that has the model holds as many images as it can" in why(world, frontend, call).summary


def test_under_fifo_a_job_is_told_how_many_came_before_it() -> None:
    world, frontend, _ = start(PolicyName.FIFO)
    submit(world, frontend, steps=50, images=2)
    submit(world, frontend, steps=50, images=3)
    call = submit(world, frontend, steps=50)
    world.step()
    said = why(world, frontend, call).summary
    assert said.startswith("its image waits: worker-worker-0 runs what came before it, and 3 images wait before it")


def test_under_fifo_a_job_in_line_is_told_what_is_before_it() -> None:
    world, frontend, _ = start(PolicyName.FIFO)
    submit(world, frontend, steps=50)
    call = submit(world, frontend, steps=50)
    world.step()
    said = why(world, frontend, call).summary
    assert said.startswith("its image waits in the line of worker-worker-0 behind 1 that came before it")


def test_under_edf_a_job_is_told_of_earlier_deadlines_and_that_it_is_parked() -> None:
    world, frontend, _ = start(PolicyName.EDF_DROP)
    call = submit(world, frontend, steps=50, slo_s=100)
    world.step(5)
    submit(world, frontend, steps=50, images=2, slo_s=50)
    world.step(2)
    said = why(world, frontend, call).summary
    assert said.startswith("its image is parked after 5 of 50 evaluations: worker-worker-0 runs those with earlier")


def test_steps_that_would_be_done_in_its_place_are_offered_where_nothing_is_promised() -> None:
    world, frontend, _ = start(PolicyName.FIFO)
    submit(world, frontend, steps=10)
    call = submit(world, frontend, steps=30, slo_s=0.25)
    world.step()
    assert re.match(
        r"\d+ steps instead of 30 would be done by its deadline, in", why(world, frontend, call).remedies[0]
    )


def test_under_static_a_job_is_told_what_its_batch_waits_for() -> None:
    world, frontend, _ = start(PolicyName.STATIC, max_batch=4, static_size=4, static_timeout_s=0.5)
    call = submit(world, frontend, images=3, steps=30)
    assert "the batch is to fill: 3 of 4 are there, and in 0.5 s it starts" in why(world, frontend, call).summary
    world.pass_time(1.0)
    late = submit(world, frontend)
    assert "the batches that run are closed until all in them is done" in why(world, frontend, late).summary


def crowd() -> Iterator[dict[str, Any]]:
    for index in range(40):
        yield {
            "images": 1 + index % 3,
            "steps": 3 + 7 * index % 20,
            "width": 64 * (1 + index % 5 // 4),
            "tier": ("interactive", "standard", "batch")[index % 3],
            "slo_s": 0.2 + 0.1 * index if index % 4 == 0 else None,
        }


@pytest.mark.parametrize("policy", PolicyName)
def test_whoever_asks_is_told_something_and_changes_nothing(policy: PolicyName) -> None:
    def run(asks: bool) -> list[Any]:
        world, frontend, worker = start(policy, max_batch=3, patience_s=0.5)
        for what in crowd():
            submit(world, frontend, **what)
            world.step(2)
            for job in list(world.core.book.live) if asks else ():
                asked = frontend.get(job)
                world.settle()
                explanation = frontend.answers[asked].view.explanation
                assert explanation.summary
                assert "None" not in repr(explanation)
        world.run()
        return worker.batches

    assert run(asks=True) == run(asks=False)


def test_a_job_that_has_ended_needs_no_explanation() -> None:
    world, frontend, _ = start()
    call = submit(world, frontend)
    world.run()
    asked = frontend.get(frontend.job(call))
    world.settle()
    assert frontend.answers[asked].view.explanation is None


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1.0, "0.00 s"),
        (0.05, "0.05 s"),
        (0.0997, "0.1 s"),
        (1.24, "1.2 s"),
        (42.4, "42 s"),
        (720, "12 min"),
        (10800, "3 h"),
    ],
)
def test_a_span_is_said_as_exactly_as_anybody_wants_to_know(seconds: float, said: str) -> None:
    assert span(seconds) == said


def test_lists_and_moments_read_well() -> None:
    assert [listed([]), listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert moment(1_700_000_000.0) == "22:13:20 UTC"
