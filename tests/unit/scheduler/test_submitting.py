"""What a frontend may ask for, and what it is answered."""

import math
from typing import Any

import msgspec
import pytest
from scheduler_world import FakeFrontend, World, spec

from collodion.wire.jobs import JobSpec, JobState, Reason
from collodion.wire.to_frontend import Accepted, JobAnswer, JobsAnswer, Refused
from collodion.wire.to_scheduler import SubmitJob, WatchJob


def ready(**settings: Any) -> tuple[World, FakeFrontend]:
    world = World(**settings)
    world.worker()
    frontend = world.frontend()
    world.settle()
    return world, frontend


def answer(world: World, frontend: FakeFrontend, call: int) -> Any:
    world.settle()
    return frontend.answers[call]


def changed(job: JobSpec, **parameters: Any) -> JobSpec:
    return msgspec.structs.replace(job, parameters=msgspec.structs.replace(job.parameters, **parameters))


def test_a_frontend_is_told_the_catalogue_at_once_and_when_it_changes() -> None:
    world = World()
    frontend = world.frontend()
    world.settle()
    assert frontend.catalogue is not None
    assert frontend.catalogue.models == ()
    assert [(tier.name, tier.slo_s) for tier in frontend.catalogue.tiers] == [
        ("interactive", 30.0),
        ("standard", 120.0),
        ("batch", None),
    ]
    worker = world.worker()
    world.settle()
    assert [(model.name, count) for model, count in frontend.catalogue.models] == [("shapes", 1)]
    assert frontend.catalogue.default_model == "shapes"
    worker.alive = False
    world.pass_time(5.0)
    assert [(model.name, count) for model, count in frontend.catalogue.models] == [("shapes", 0)]


def test_a_watched_submission_is_answered_by_events() -> None:
    world, frontend = ready()
    call = frontend.submit(spec())
    world.settle()
    accepted = frontend.events[call][0]
    assert isinstance(accepted, Accepted)
    assert accepted.view.state is JobState.QUEUED
    assert accepted.view.deadline == accepted.view.created + 120.0
    assert len(accepted.view.job) == 26


def test_an_unwatched_submission_is_answered_by_its_view_and_runs_on() -> None:
    world, frontend = ready()
    call = frontend.submit(spec(), watch=False)
    answered = answer(world, frontend, call)
    assert isinstance(answered, JobAnswer)
    assert answered.view.spec.detach
    world.run()
    assert world.stored[answered.view.job].state is JobState.FINISHED


def test_nothing_is_acknowledged_or_run_before_it_is_durable() -> None:
    world, frontend = ready()
    world.persisting = False
    watched, unwatched = frontend.submit(spec()), frontend.submit(spec(), watch=False)
    world.settle()
    assert watched not in frontend.events
    assert unwatched not in frontend.answers
    assert not any(worker.running for worker in world.workers)
    world.persist()
    world.settle()
    assert isinstance(frontend.events[watched][0], Accepted)
    assert isinstance(frontend.answers[unwatched], JobAnswer)
    assert world.workers[0].running


def test_a_job_whose_client_leaves_before_it_is_durable_does_not_run() -> None:
    world, frontend = ready()
    world.persisting = False
    call = frontend.submit(spec())
    world.settle()
    frontend.leave(call)
    world.settle()
    world.persist()
    world.settle()
    assert not world.workers[0].running
    world.pass_time(11.0)
    assert [view.state for view in world.stored.values()] == [JobState.CANCELLED]


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (spec(model="unknown"), Reason.MODEL_NOT_FOUND),
        (spec(tier="platinum"), Reason.INVALID_FIELDS),
        (spec(images=0), Reason.INVALID_FIELDS),
        (spec(images=10**12), Reason.INVALID_FIELDS),
        (spec(steps=0), Reason.INVALID_FIELDS),
        (spec(slo_s=0.0), Reason.INVALID_FIELDS),
        (spec(slo_s=math.nan), Reason.INVALID_FIELDS),
        (spec(slo_s=math.inf), Reason.INVALID_FIELDS),
    ],
)
def test_what_cannot_be_run_is_refused(job: JobSpec, reason: Reason) -> None:
    world, frontend = ready()
    refused = answer(world, frontend, frontend.submit(job))
    assert isinstance(refused, Refused)
    assert refused.reason is reason
    assert not world.core.book.live


def test_before_any_worker_came_a_job_is_refused_with_the_advice_to_wait() -> None:
    world = World()
    frontend = world.frontend()
    refused = answer(world, frontend, frontend.submit(spec()))
    assert refused.reason is Reason.NO_WORKER
    assert refused.retry_after_s > 0


def test_jobs_for_a_model_whose_workers_are_lost_wait_for_one_to_return() -> None:
    world, frontend = ready()
    world.workers[0].alive = False
    world.pass_time(5.0)
    call = frontend.submit(spec())
    world.settle()
    assert isinstance(frontend.events[call][0], Accepted)
    world.worker()
    world.run()
    assert frontend.kinds(call)[-1] == "Ended"


def test_a_request_id_stands_for_one_job() -> None:
    world, frontend = ready()
    first = frontend.submit(spec(request_id="r"))
    again = frontend.submit(spec(request_id="r"))
    world.settle()
    assert frontend.job(first) == frontend.job(again)
    world.run()
    late = frontend.submit(spec(request_id="r"))
    world.settle()
    assert frontend.job(late) == frontend.job(first)
    assert frontend.kinds(late) == ["Accepted", "ImageStored", "Ended"]


def test_a_request_id_is_the_tenants_own() -> None:
    world, frontend = ready()
    ada, bob = frontend.submit(spec(request_id="r")), frontend.submit(spec(request_id="r", tenant="bob"))
    world.settle()
    assert frontend.job(ada) != frontend.job(bob)


def test_a_request_id_used_for_another_request_is_refused() -> None:
    world, frontend = ready()
    frontend.submit(spec(request_id="r"))
    refused = answer(world, frontend, frontend.submit(changed(spec(request_id="r"), prompt="a blue square")))
    assert refused.reason is Reason.REQUEST_ID_REUSED


def test_a_submission_that_comes_twice_is_one_job() -> None:
    world, frontend = ready()
    message = SubmitJob(7, spec(), watch=False)
    world.say(frontend, message)
    world.say(frontend, message)
    assert len(world.core.book.live) == 1


def test_a_watch_that_comes_twice_is_one_even_after_its_client_left() -> None:
    world, frontend = ready()
    job = answer(world, frontend, frontend.submit(spec(), watch=False)).view.job
    call = frontend.watch(job)
    world.settle()
    frontend.leave(call)
    world.settle()
    world.say(frontend, WatchJob(call, "ada", job))
    assert not list(world.core.watchers)


def test_the_queue_is_bounded_for_all_and_for_each_tenant() -> None:
    world, frontend = ready(max_jobs=3, max_jobs_per_tenant=2)
    for tenant in ("ada", "ada", "bob"):
        frontend.submit(spec(tenant=tenant))
    world.settle()
    full = answer(world, frontend, frontend.submit(spec(tenant="cleo")))
    assert full.reason is Reason.QUEUE_FULL
    assert full.retry_after_s > 0
    world.run()
    frontend.submit(spec(tenant="ada"))
    frontend.submit(spec(tenant="ada"))
    tenant_full = answer(world, frontend, frontend.submit(spec(tenant="ada")))
    assert tenant_full.reason is Reason.QUEUE_FULL
    assert len(world.core.book.live) == 2


def test_a_deadline_is_the_requests_own_or_the_tiers_and_is_judged_at_the_end() -> None:
    world, frontend = ready()
    own, none = frontend.submit(spec(slo_s=0.01)), frontend.submit(spec(tier="batch"))
    world.run()
    assert frontend.events[own][-1].deadline_met is False
    assert frontend.events[none][-1].deadline_met is None
    assert world.stored[frontend.job(none)].deadline is None


@pytest.mark.parametrize("ask", [FakeFrontend.get, FakeFrontend.cancel, FakeFrontend.watch])
def test_the_jobs_of_another_tenant_do_not_exist(ask: Any) -> None:
    world, frontend = ready()
    call = frontend.submit(spec())
    world.settle()
    refused = answer(world, frontend, ask(frontend, frontend.job(call), tenant="bob"))
    assert refused.reason is Reason.JOB_NOT_FOUND
    assert world.core.book.live


def test_a_job_is_shown_as_it_stands() -> None:
    world, frontend = ready()
    first, second = frontend.submit(spec(images=2, steps=9)), frontend.submit(spec(width=128))
    third = frontend.submit(spec(width=128))
    world.step(3)
    view = answer(world, frontend, frontend.get(frontend.job(first))).view
    assert view.state is JobState.RUNNING
    assert [(image.step, image.steps) for image in view.progress] == [(3, 9), (3, 9)]
    places = [answer(world, frontend, frontend.get(frontend.job(call))).view.place for call in (first, second, third)]
    assert places == [0, 0, 1]


def test_a_tenants_jobs_are_listed_newest_first_in_pages() -> None:
    world, frontend = ready()
    for number in range(5):
        frontend.submit(spec(labels={"odd": str(number % 2)}), watch=False)
    frontend.submit(spec(tenant="bob"), watch=False)
    world.settle()
    jobs = sorted((view.job for view in world.stored.values() if view.spec.tenant == "ada"), reverse=True)
    page = answer(world, frontend, frontend.list_jobs(3))
    assert isinstance(page, JobsAnswer)
    assert [view.job for view in page.views] == jobs[:3]
    rest = answer(world, frontend, frontend.list_jobs(3, before=page.next))
    assert [view.job for view in rest.views] == jobs[3:]
    assert rest.next == ""
    odd = answer(world, frontend, frontend.list_jobs(labels={"odd": "1"}))
    assert [view.job for view in odd.views] == [jobs[1], jobs[3]]


def test_jobs_are_listed_by_state() -> None:
    world, frontend = ready()
    frontend.submit(spec(), watch=False)
    world.run()
    frontend.submit(spec(), watch=False)
    world.settle()
    finished = answer(world, frontend, frontend.list_jobs(states=(JobState.FINISHED,)))
    assert [view.state for view in finished.views] == [JobState.FINISHED]


def test_a_page_of_long_prompts_stays_below_a_grpc_message() -> None:
    world, frontend = ready()
    for _ in range(200):
        frontend.submit(changed(spec(), prompt="ä" * 10_000, negative_prompt="ö" * 10_000), watch=False)
    world.settle()
    seen, before, pages = 0, "", 0
    while pages == 0 or before:
        page = answer(world, frontend, frontend.list_jobs(1000, before=before))
        assert len(msgspec.msgpack.encode(page)) < 4 * 1024 * 1024
        seen, before, pages = seen + len(page.views), page.next, pages + 1
    assert seen == 200
    assert pages > 1


def test_ended_jobs_are_forgotten_by_age_and_by_number() -> None:
    world, frontend = ready(retention_s=100.0, max_ended_jobs=2)
    for _ in range(4):
        frontend.submit(spec(request_id=""), watch=False)
        world.run()
    world.pass_time(1.0)
    assert len(world.stored) == 2
    world.pass_time(101.0)
    assert not world.stored
    refused = answer(world, frontend, frontend.get("0" * 26))
    assert refused.reason is Reason.JOB_NOT_FOUND
