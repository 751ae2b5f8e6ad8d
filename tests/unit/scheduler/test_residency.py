"""Models that come and go: what is loaded where, what makes way, and what becomes of those who wait.

A worker here has room for two models of equal size, `a` and `b` in memory and `c` on its disk, unless a test says otherwise.
"""

import itertools
from typing import Any

import msgspec
import pytest
from scheduler_audit import audit
from scheduler_world import FakeFrontend, SimulatedWorker, World, model, spec

from collodion.scheduler.config import PolicyName
from collodion.scheduler.events import Ticked
from collodion.wire.jobs import DeadlinePolicy, JobState, ModelInfo, Reason, Residency
from collodion.wire.to_frontend import Refused
from collodion.wire.to_scheduler import LoadModel
from collodion.wire.to_worker import Membership, ResidencyWish

MIB = 1 << 20
NAMES = "abc"


class Fleet(World):
    """A world of several models; loading one is thought to take 4 s until it was measured."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"load_mib_s": 100.0, "turn_s": 10.0, **settings})
        self.client: FakeFrontend = self.frontend()
        self.audited = True

    def device(self, room: int = 2, on_disk: str = "c", names: str = NAMES, **more: Any) -> SimulatedWorker:
        worker = self.worker(
            models=tuple(map(model, names)),
            model_bytes=room * 400 * MIB,
            on_disk=set(on_disk),
            **{"load_s": None, "sizes": dict.fromkeys(names, 400 * MIB), **more},
        )
        self.settle()
        return worker

    def ask(self, name: str, **more: Any) -> int:
        call = self.client.submit(spec(model=name, **more))
        self.settle()
        return call

    def finish(self, *calls: int) -> None:
        """Steps until these jobs have ended."""
        for _ in range(500):
            self.step()
            self.pass_time(0.1)
            if all(self.ended(call) for call in calls):
                return
        raise AssertionError("they do not end")

    def ended(self, call: int) -> Any:
        events = self.client.events.get(call, [])
        return events[-1] if events and type(events[-1]).__name__ == "Ended" else None

    def wishes(self, worker: SimulatedWorker) -> list[ResidencyWish]:
        messages = (command.message for command in self.commands if getattr(command, "peer", None) == worker.peer)
        return [message for message in messages if isinstance(message, ResidencyWish)]

    def handle(self, event: Any) -> list[Any]:
        commands = super().handle(event)
        if self.audited:
            audit(self.core)
        return commands

    def status(self, name: str) -> Any:
        assert self.client.catalogue is not None
        return next(status for status in self.client.catalogue.statuses if status.name == name)

    def resident(self, worker: SimulatedWorker) -> set[str]:
        return {one.name for one in worker.models} - worker.on_disk


def test_nothing_is_wished_for_while_nobody_asks_for_what_is_not_there() -> None:
    world = Fleet()
    worker = world.device()
    world.finish(world.ask("a"), world.ask("b"))
    world.pass_time(60.0)
    assert not world.wishes(worker)


def test_a_job_for_a_model_on_disk_is_accepted_at_once_and_runs_when_it_is_loaded() -> None:
    world = Fleet()
    worker = world.device(room=3)
    call = world.ask("c")
    assert world.client.kinds(call) == ["Accepted"]
    assert [set(wish.models) for wish in world.wishes(worker)] == [{"a", "b", "c"}]
    world.finish(call)
    assert world.ended(call).state is JobState.FINISHED
    assert world.resident(worker) == {"a", "b", "c"}


def test_who_was_used_longest_ago_makes_way() -> None:
    world = Fleet()
    worker = world.device()
    world.finish(world.ask("b"))
    world.pass_time(5.0)
    world.finish(world.ask("a"))
    world.finish(world.ask("c"))
    assert world.resident(worker) == {"a", "c"}


def test_no_more_makes_way_than_has_to() -> None:
    world = Fleet()
    worker = world.device(sizes={"a": 100 * MIB, "b": 500 * MIB, "c": 450 * MIB}, room=2)
    world.finish(world.ask("a"))
    world.pass_time(5.0)
    world.finish(world.ask("b"))
    world.finish(world.ask("c"))
    assert world.resident(worker) == {"a", "c"}


def test_a_model_whose_latents_run_stays_though_it_was_used_before_others() -> None:
    world = primed()
    worker = world.device()
    long = world.ask("a", steps=100, tier="batch")
    world.step(2)
    world.pass_time(5.0)
    world.finish(world.ask("b", slo_s=5.0))
    world.finish(world.ask("c", slo_s=5.0))
    assert world.resident(worker) == {"a", "c"}
    assert world.ended(long) is None
    world.finish(long)
    assert world.ended(long).state is JobState.FINISHED


def test_a_set_aside_job_keeps_the_model_that_its_images_are_held_of() -> None:
    world = Fleet()
    worker = world.device()
    call = world.ask("a", steps=60)
    world.step(2)
    world.client.leave(call)
    world.settle()
    world.finish(world.ask("b"), world.ask("c"))
    assert "a" in world.resident(worker)


def busy(world: Fleet, worker: SimulatedWorker, name: str) -> None:
    """Keeps a model busy for ever: whenever a job of it ends, the next one waits already."""
    running = [one.spec.parameters.model for one in world.core.book.live.values()].count(name)
    for _ in range(4 - running):
        world.ask(name, steps=8, tier="batch")
    world.step()
    world.pass_time(0.5)


def test_models_that_are_always_busy_take_turns_after_a_patience() -> None:
    world = Fleet()
    worker = world.device(room=1, on_disk="bc", max_batch=1)
    seen, since = [], world.now
    for _ in range(300):
        for name in NAMES:
            busy(world, worker, name)
        there = "".join(world.resident(worker))
        if there and (not seen or seen[-1][0] != there):
            seen.append((there, world.now - since))
    order = "".join(name for name, _ in seen)
    assert len(seen) > 5
    assert all(len(set(order[at : at + 3])) == 3 for at in range(len(order) - 2)), order
    stays = [later - sooner for (_, sooner), (_, later) in itertools.pairwise(seen)]
    assert min(stays) >= 10.0


def test_a_draining_model_finishes_what_it_has_begun_and_begins_nothing() -> None:
    world = Fleet(turn_s=1.0, load_mib_s=1e6)
    worker = world.device(room=1, on_disk="bc")
    first = world.ask("a", steps=30)
    world.step(2)
    other = world.ask("b")
    world.pass_time(3.0)
    late = world.ask("a")
    world.step(3)
    assert [name.job for name in worker.running] == [world.client.job(first)]
    world.finish(first, other, late)
    assert worker.loads == ["b", "a"]


def test_a_turn_is_called_off_when_nobody_waits_for_it_any_more() -> None:
    world = Fleet(turn_s=1.0, load_mib_s=1e6)
    worker = world.device(room=1, on_disk="bc")
    first = world.ask("a", steps=30)
    world.step(2)
    other = world.ask("b")
    world.pass_time(3.0)
    assert world.core.fleet.workers[worker.peer].draining == {"a"}
    world.client.cancel(world.client.job(other))
    world.settle()
    assert not world.core.fleet.workers[worker.peer].draining
    world.finish(first, world.ask("a"))
    assert worker.loads == []


def test_the_worker_that_has_the_model_is_preferred() -> None:
    world = Fleet()
    one, two = world.device(on_disk="bc"), world.device(on_disk="ac")
    world.finish(world.ask("b"), world.ask("a"))
    assert (one.loads, two.loads) == ([], [])
    assert {worker.peer for worker in (one, two) if worker.batches} == {one.peer, two.peer}


def test_a_model_is_loaded_where_that_is_quickest() -> None:
    world = Fleet()
    full, empty = world.device(room=2), world.device(room=2, on_disk="bc")
    world.finish(world.ask("c"))
    assert (full.loads, empty.loads) == ([], ["c"])


def test_what_loading_takes_is_learned_from_what_was_measured() -> None:
    world = Fleet()
    worker = world.device(room=3, load_s=None)
    assert world.core.residency.ready_in("c") == 4.0
    worker.load_s = 9.0
    world.finish(world.ask("c"))
    worker.on_disk = {"c"}
    worker.beat()
    world.settle()
    world.core.fleet.workers[worker.peer].wanted.pop("c")
    assert world.core.residency.ready_in("c") == 9.0


def test_a_second_copy_is_loaded_where_much_more_waits_than_loading_costs() -> None:
    world = Fleet(load_mib_s=1e5)
    first = world.device(on_disk="bc", max_batch=1, load_s=0.01)
    world.finish(world.ask("a"))
    second = world.device(on_disk="abc")
    calls = [world.ask("a", steps=20, tier="batch") for _ in range(12)]
    world.finish(*calls)
    assert second.loads == ["a"]
    assert first.batches
    assert second.batches


def test_no_second_copy_drives_out_what_was_used_a_moment_ago() -> None:
    world = Fleet(load_mib_s=100.0)
    world.device(on_disk="bc", max_batch=1)
    world.finish(world.ask("a"))
    second = world.device(room=1, on_disk="ac")
    world.finish(world.ask("b"))
    world.finish(*(world.ask("a", steps=20, tier="batch") for _ in range(8)))
    assert second.loads == []


# ------------------------------------------------------------------ what cannot be loaded


def test_the_jobs_of_a_model_that_cannot_be_loaded_fail_with_its_reason_and_new_ones_are_refused() -> None:
    world = Fleet()
    worker = world.device(broken={"c": "c.safetensors is cut off"})
    call = world.ask("c")
    world.finish(call)
    failure = world.ended(call).failure
    assert (failure.reason, failure.message) == (Reason.MODEL_UNUSABLE, "c.safetensors is cut off")
    assert (world.status("c").residency, world.status("c").reason) == (Residency.FAILED, "c.safetensors is cut off")
    refused = world.client.answers[world.ask("c")]
    assert (refused.reason, refused.message) == (Reason.MODEL_UNUSABLE, "c.safetensors is cut off")
    world.finish(world.ask("a"), world.ask("b"))
    assert worker.loads.count("c") == 1


def test_a_model_that_one_worker_cannot_load_is_loaded_by_another() -> None:
    world = Fleet()
    broken = world.device(room=3, broken={"c": "it does not fit"})
    sound = world.device(room=2)
    call = world.ask("c")
    world.finish(call)
    assert world.ended(call).state is JobState.FINISHED
    assert (broken.loads, sound.loads) == (["c"], ["c"])


def test_a_file_that_was_mended_is_tried_again() -> None:
    world = Fleet()
    worker = world.device(broken={"c": "it is cut off"})
    world.finish(world.ask("c"))
    worker.broken.clear()
    worker.failed.clear()
    worker.beat()
    call = world.ask("c")
    world.finish(call)
    assert world.ended(call).state is JobState.FINISHED


def test_a_model_whose_files_are_gone_leaves_the_catalogue_and_fails_those_who_wait() -> None:
    world = Fleet()
    worker = world.device(load_steps=1000)
    call = world.ask("c")
    world.step()
    worker.models = worker.models[:2]
    worker.on_disk.clear()
    worker.beat()
    world.settle()
    assert world.ended(call).failure.reason is Reason.MODEL_UNUSABLE
    assert world.client.catalogue is not None
    assert [info.name for info, _ in world.client.catalogue.models] == ["a", "b"]
    assert world.client.answers[world.ask("c")].reason is Reason.MODEL_NOT_FOUND


def test_a_model_that_never_fits_is_told_so_at_once() -> None:
    world = Fleet()
    world.device(sizes={"a": 400 * MIB, "b": 400 * MIB, "c": 900 * MIB})
    refused = world.client.answers[world.ask("c")]
    assert refused.reason is Reason.MODEL_UNUSABLE
    assert "takes 900 MiB, and all models have 800 MiB" in refused.message
    assert world.status("c").residency is Residency.FAILED


# ------------------------------------------------------------------ deadlines


def primed(**settings: Any) -> Fleet:
    world = Fleet(**settings)
    for name in NAMES:
        costs = {"step": {1: 0.01}, "encode": {1: 1e-6}, "decode": {1: 1e-6}}
        world.core.costs.load("", f"{name}/64x64", costs, noise=0.0, weight=1e6)
    return world


@pytest.mark.parametrize("policy", [DeadlinePolicy.REFUSE, DeadlinePolicy.DEGRADE])
def test_who_wants_a_promise_of_a_model_on_disk_is_told_when_it_is_there_and_finds_it_then(
    policy: DeadlinePolicy,
) -> None:
    world = primed()
    worker = world.device()
    refused = world.client.answers[world.ask("c", slo_s=30.0, deadline_policy=policy)]
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.retry_after_s) == (Reason.DEADLINE_INFEASIBLE, 4.0)
    assert "the model c has to be loaded first: it is there in about 4.0 s" in refused.message
    assert refused.offer is not None
    assert refused.offer.finish is not None
    assert 4.0 < refused.offer.finish - world.now < 4.2
    for _ in range(4):
        world.step()
        world.pass_time(1.0)
    assert "c" in world.resident(worker)
    again = world.ask("c", slo_s=30.0, deadline_policy=policy)
    assert world.client.events[again][0].view.promised
    world.finish(again)


def test_who_wants_a_promise_of_a_model_whose_place_is_busy_is_told_that_it_waits_for_its_turn() -> None:
    world = primed()
    world.device(room=1, on_disk="bc")
    world.ask("a", steps=90, tier="batch")
    refused = world.client.answers[world.ask("c", slo_s=5.0, deadline_policy=DeadlinePolicy.REFUSE)]
    assert refused.retry_after_s == pytest.approx(16.0 + 4.0)


def test_a_model_that_was_loaded_for_somebody_who_does_not_come_again_makes_way_in_the_end() -> None:
    world = primed()
    worker = world.device(room=1, on_disk="bc")
    world.ask("c", slo_s=30.0, deadline_policy=DeadlinePolicy.REFUSE)
    world.step(4)
    assert world.resident(worker) == {"c"}
    world.ask("b")
    world.step(4)
    assert world.resident(worker) == {"c"}
    world.pass_time(25.0)
    world.step(4)
    assert world.resident(worker) == {"b"}


def test_a_job_that_waits_for_its_model_is_promised_when_it_is_there() -> None:
    world = primed()
    worker = world.device()
    call = world.ask("c", slo_s=10.0)
    assert not world.client.events[call][0].view.promised
    for _ in range(5):
        world.pass_time(0.8)
        worker.step()
        world.settle()
    job = world.core.book.live[world.client.job(call)]
    assert "c" in world.resident(worker)
    assert job.promised


def test_a_cold_model_does_not_make_others_wait_as_if_the_fleet_were_full() -> None:
    world = primed()
    world.device(load_steps=1000)
    for _ in range(5):
        world.ask("c", slo_s=5.0)
    call = world.ask("a", tier="batch")
    world.step(2)
    assert "StageChanged" in world.client.kinds(call)


# ------------------------------------------------------------------ by name


def test_a_pinned_model_never_makes_way_and_one_that_has_no_room_beside_is_refused() -> None:
    world = Fleet()
    worker = world.device(pinned=frozenset("ab"))
    assert world.client.answers[world.ask("c")].reason is Reason.MODEL_UNUSABLE
    call = world.client.load("c")
    world.settle()
    refused = world.client.answers[call]
    assert refused.reason is Reason.MODEL_TOO_LARGE
    assert world.resident(worker) == {"a", "b"}
    assert world.status("a").pinned


def test_what_load_model_names_is_loaded_and_stays() -> None:
    world = Fleet()
    worker = world.device()
    call = world.client.load("c")
    world.settle()
    status = world.client.answers[call].status
    assert (status.name, status.residency, status.pinned) == ("c", Residency.LOADING, True)
    world.step(4)
    assert world.status("c").residency is Residency.RESIDENT
    world.finish(world.ask("a"), world.ask("b"))
    world.finish(world.ask("b"), world.ask("a"))
    assert "c" in world.resident(worker)


def test_load_model_of_one_that_is_there_pins_it_where_it_is() -> None:
    world = Fleet()
    worker = world.device(room=1, on_disk="bc")
    world.client.load("a")
    world.settle()
    assert world.client.answers[world.ask("b")].reason is Reason.MODEL_UNUSABLE
    assert worker.loads == []


def test_unload_model_gives_the_memory_back_once_nothing_runs_on_it() -> None:
    world = Fleet()
    worker = world.device(pinned=frozenset("a"))
    long = world.ask("a", steps=20)
    world.step(2)
    call = world.client.unload("a")
    world.settle()
    assert world.client.answers[call].status.residency is Residency.RESIDENT
    assert not world.client.answers[call].status.pinned
    world.step(3)
    assert "a" in world.resident(worker)
    world.finish(long)
    world.step(2)
    assert world.resident(worker) == {"b"}
    again = world.ask("a")
    world.finish(again)
    assert world.ended(again).state is JobState.FINISHED


def test_what_is_asked_for_again_before_it_left_stays() -> None:
    world = Fleet()
    worker = world.device()
    long = world.ask("a", steps=20)
    world.step(2)
    world.client.unload("a")
    world.settle()
    world.finish(long, world.ask("a"))
    world.step(2)
    assert world.resident(worker) == {"a", "b"}


def test_load_model_tries_again_what_failed() -> None:
    world = Fleet()
    worker = world.device(broken={"c": "it is cut off"})
    world.finish(world.ask("c"))
    world.client.load("c")
    world.step(4)
    assert worker.loads == ["c", "c"]
    assert world.status("c").residency is Residency.FAILED
    assert not world.status("c").pinned
    worker.broken.clear()
    world.client.load("c")
    world.step(4)
    assert world.status("c").residency is Residency.RESIDENT


@pytest.mark.parametrize("call", ["load", "unload"])
def test_a_model_that_is_not_there_is_not_found(call: str) -> None:
    world = Fleet()
    world.device()
    number = getattr(world.client, call)("nowhere")
    world.settle()
    assert world.client.answers[number].reason is Reason.MODEL_NOT_FOUND


def test_a_pinned_model_is_loaded_again_elsewhere_when_its_worker_dies() -> None:
    world = Fleet()
    first = world.device(room=3)
    world.client.load("c")
    world.step(4)
    second = world.device(room=3)
    first.alive = False
    world.pass_time(5.0)
    world.step(4)
    assert "c" in world.resident(second)
    assert world.status("c").pinned


# ------------------------------------------------------------------ lost messages, lost processes


def test_a_wish_that_was_lost_is_said_again() -> None:
    world = Fleet()
    worker = world.device()
    world.client.submit(spec(model="c"))
    while world.client.outbox:
        world.deliver_up(world.client)
    worker.inbox.clear()
    world.pass_time(1.0)
    assert worker.wish is not None
    assert "c" in worker.wish.models


def test_a_new_scheduler_begins_with_what_is_there() -> None:
    world = Fleet()
    worker = world.device()
    world.finish(world.ask("c"))
    there = world.resident(worker)
    before = len(world.wishes(worker))
    world.start_scheduler()
    world.pass_time(5.0)
    assert world.resident(worker) == there
    assert len(world.wishes(worker)) == before
    evicted = next(iter(set(NAMES) - there))
    world.finish(world.ask(evicted))
    assert worker.wish is not None
    assert worker.wish.scheduler == "scheduler-2"


@pytest.mark.parametrize("costs_known", [False, True])
def test_what_was_placed_on_a_model_that_an_earlier_scheduler_let_go_waits_for_it_again(costs_known: bool) -> None:
    world = primed() if costs_known else Fleet()
    worker = world.device()
    worker.wish = ResidencyWish("scheduler-0", worker.incarnation, 1, ("b",))
    call = world.client.submit(spec(images=6, model="a", slo_s=5.0))
    while world.client.outbox:
        world.deliver_up(world.client)
    worker.on_disk.add("a")  # it let it go as it heard of another scheduler, before it heard what that one wants of it
    worker.beat()
    world.settle()
    world.finish(call)
    assert world.ended(call).state is JobState.FINISHED
    assert worker.loads == ["a"]


def test_a_worker_that_dies_while_it_loads_is_replaced_by_another() -> None:
    world = Fleet()
    first = world.device(load_steps=1000)
    call = world.ask("c")
    world.step(3)
    assert first.loads == ["c"]
    first.alive = False
    world.pass_time(5.0)
    second = world.device()
    world.finish(call)
    assert world.ended(call).state is JobState.FINISHED
    assert second.loads == ["c"]


def test_a_model_whose_loading_kills_workers_is_not_tried_for_ever() -> None:
    world = Fleet()
    call = 0
    for lives in range(2):
        worker = world.device(load_steps=1000)
        call = call or world.ask("c")
        world.step(3)
        assert worker.loads == ["c"], lives
        worker.alive = False
        world.pass_time(5.0)
    last = world.device()
    world.step(3)
    assert not last.loads
    assert "2 workers died" in world.ended(call).failure.message
    refused = world.client.answers[world.ask("c")]
    assert refused.reason is Reason.MODEL_UNUSABLE
    world.client.load("c")
    world.settle()
    world.step(5)
    assert world.status("c").residency is Residency.RESIDENT


def test_a_worker_that_was_lost_and_is_back_is_believed_what_it_says() -> None:
    world = Fleet()
    worker = world.device()
    world.finish(world.ask("c"))
    worker.alive = False
    world.pass_time(5.0)
    worker.alive = True
    worker.beat()
    world.settle()
    gone = next(iter(worker.on_disk))
    call = world.ask(gone)
    world.finish(call)
    assert world.ended(call).state is JobState.FINISHED


def test_a_model_is_not_used_on_the_word_of_a_state_from_before_it_was_let_go() -> None:
    """`a` is let go and wished for again at once; the state that says it is there was said before."""
    world = Fleet()
    worker = world.device(room=1, on_disk="bc")
    world.ask("b", steps=1)
    worker.beat()
    stale = worker.outbox.pop()
    record = world.core.fleet.workers[worker.peer]
    assert "a" not in record.wanted
    record.wanted["a"] = record.wished + 1
    world.audited = False
    world.say(worker, *stale)
    assert "a" not in record.takes


# ------------------------------------------------------------------ what is told


def explained(world: Fleet, call: int) -> str:
    number = world.client.get(world.client.job(call))
    world.settle()
    summary: str = world.client.answers[number].view.explanation.summary
    return summary


def test_who_waits_for_a_model_is_told_how_long_it_takes() -> None:
    world = Fleet()
    worker = world.device(room=3, load_steps=4)
    call = world.ask("c", tier="batch")
    assert explained(world, call) == "it waits for the model c to load, about 4.0 s to go"
    world.step(3)
    assert explained(world, call) == "it waits for the model c to load, about 2.0 s to go"
    assert worker.loading == ("c", 2)


def test_who_waits_for_others_to_make_way_is_told_so() -> None:
    world = Fleet(turn_s=1.0, load_mib_s=1e6)
    world.device(room=1, on_disk="bc")
    world.ask("a", steps=50)
    world.step(2)
    call = world.ask("b", tier="batch")
    assert explained(world, call).startswith("it waits for room for the model b")
    world.pass_time(3.0)
    assert "a at worker-worker-0 to be done with what they have begun, and then for b to load" in explained(world, call)


def test_the_catalogue_tells_where_every_model_is_and_when_that_changes() -> None:
    world = Fleet()
    world.device(room=3, load_steps=4)
    assert {name: world.status(name).residency for name in NAMES} == {
        "a": Residency.RESIDENT,
        "b": Residency.RESIDENT,
        "c": Residency.ON_DISK,
    }
    assert world.status("c").size_bytes == 400 * MIB
    world.ask("c")
    assert world.status("c").residency is Residency.LOADING
    world.step(3)
    assert 0.0 < world.status("c").progress < 1.0
    world.step(3)
    assert world.status("c").residency is Residency.RESIDENT
    assert world.client.catalogue is not None
    assert {info.name: count for info, count in world.client.catalogue.models}["c"] == 1


def test_a_file_that_is_replaced_is_described_anew_though_other_workers_have_it_too() -> None:
    world = Fleet()
    workers = [world.device(), world.device()]
    for worker in workers:
        changed = msgspec.structs.replace(worker.models[0], default_steps=9)
        worker.models = (changed, *worker.models[1:])
        worker.beat()
        world.settle()
    assert described(world, "a").default_steps == 9


def test_what_only_a_lost_worker_said_of_a_model_does_not_stand() -> None:
    world = Fleet()
    first, second = world.device(), world.device()
    first.models = (msgspec.structs.replace(first.models[0], default_steps=9), *first.models[1:])
    first.beat()
    world.settle()
    assert described(world, "a").default_steps == 9
    first.alive = False
    world.pass_time(5.0)
    assert described(world, "a") == second.models[0]


def described(world: Fleet, name: str) -> ModelInfo:
    assert world.client.catalogue is not None
    return next(info for info, _ in world.client.catalogue.models if info.name == name)


def test_the_default_model_is_the_first_that_can_be_used() -> None:
    world = Fleet()
    world.device(sizes={"a": 5000 * MIB, "b": 400 * MIB, "c": 400 * MIB}, on_disk="abc")
    assert world.client.catalogue is not None
    assert world.client.catalogue.default_model == "b"


def test_the_default_model_is_one_that_a_workers_settings_keep_if_there_is_one() -> None:
    world = Fleet()
    world.device(pinned=frozenset("b"))
    assert world.client.catalogue is not None
    assert world.client.catalogue.default_model == "b"


def test_a_defect_while_models_are_settled_does_not_lose_a_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Fleet()
    worker = world.device()
    residency = world.core.residency
    monkeypatch.setattr(residency, "_say", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        world.say(world.client, LoadModel(99, "c"))
    world.carry_out(world.core.mend(Ticked(), world.now))
    monkeypatch.undo()
    world.pass_time(2.0)
    world.step(4)
    assert "c" in world.resident(worker)


def test_a_worker_without_bounds_keeps_everything_that_was_ever_asked_for() -> None:
    world = Fleet()
    worker = world.device(room=0)
    world.finish(world.ask("c"))
    assert world.resident(worker) == set(NAMES)


def test_two_models_take_turns_in_step_batches_of_their_own() -> None:
    world = Fleet()
    worker = world.device(load_s=0.01)
    calls = [world.ask(name, steps=3) for name in "abab"]
    world.finish(*calls)
    models = [{world.stored[name.job].spec.parameters.model for name in batch} for batch in worker.batches]
    assert all(len(names) == 1 for names in models)
    memberships = [c.message for c in world.commands if isinstance(getattr(c, "message", None), Membership)]
    assert memberships


@pytest.mark.parametrize("policy", [DeadlinePolicy.BEST_EFFORT, DeadlinePolicy.REFUSE])
def test_a_size_of_unknown_cost_has_its_turn_among_promises_without_end(policy: DeadlinePolicy) -> None:
    bounds = {"max_jobs_per_tenant": 10_000, "max_jobs": 10_000, "max_queue_s_per_tenant": 1e9, "max_queue_s": 1e9}
    world = primed(patience_s=10.0, **bounds)
    world.audited = False  # what an audit of thousands of refused jobs costs has nothing to do with it
    world.device(room=2, on_disk="c", max_resident=64)
    call = 0
    for turn in range(600):
        world.client.submit(spec(model="a", steps=12, slo_s=5, deadline_policy=policy))
        if turn == 50:
            call = world.client.submit(spec(model="b", width=128, steps=4, tier="batch"))
        world.settle()
        world.step(2)
        world.pass_time(0.05)
        if call and world.ended(call):
            return
    raise AssertionError("it never ran")


@pytest.mark.parametrize("policy", PolicyName)
def test_under_every_policy_models_are_loaded_and_make_way(policy: PolicyName) -> None:
    world = Fleet(policy=policy, static_timeout_s=0.0)
    worker = world.device(room=1, on_disk="bc")
    calls = [world.ask(name, images=2, steps=3, tier="batch") for name in "abcab"]
    world.finish(*calls)
    assert all(world.ended(call).state is JobState.FINISHED for call in calls)
    assert set(worker.loads) == {"b", "c"} | ({"a"} & set(worker.loads))
