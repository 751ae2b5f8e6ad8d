"""A virtual worker carries out the rule of `Membership` to the moment, and says what changed."""

from hypothesis import given
from hypothesis import strategies as st
from virtual_bench import DEVICE, Bench, Plodder, membership, order

from collodion.wire.jobs import Stage
from collodion.wire.to_scheduler import WorkerReport
from collodion.wire.to_worker import Membership


def test_a_latent_alone_is_encoded_stepped_and_decoded() -> None:
    bench = Bench()
    bench.tell(0.0, membership(1, ["a"], [order("a", 3)]))
    bench.run()
    assert bench.batches() == [
        ("encode", 0.0, 1.0, ("a/0",)),
        ("step", 1.0, 1.125, ("a/0",)),
        ("step", 1.125, 1.25, ("a/0",)),
        ("step", 1.25, 1.375, ("a/0",)),
        ("decode", 1.375, 1.875, ("a/0",)),
    ]
    assert bench.reports() == [
        (0.0, {"a/0": ("encoding", 0)}),
        (1.0, {"a/0": ("denoising", 0)}),
        (1.375, {"a/0": ("decoding", 3)}),
        (1.875, {"a/0": ("done", 3)}),
    ]


def test_a_newcomer_joins_at_the_boundary_after_its_membership_arrives() -> None:
    bench = Bench()
    bench.tell(0.0, membership(1, ["a"], [order("a", 4)]))
    bench.tell(1.1875, membership(2, ["a", "b"], [order("b", 5)]))
    bench.run()
    assert bench.batches() == [
        ("encode", 0.0, 1.0, ("a/0",)),
        ("step", 1.0, 1.125, ("a/0",)),
        ("step", 1.125, 1.25, ("a/0",)),
        ("encode", 1.25, 2.25, ("b/0",)),
        ("step", 2.25, 2.4375, ("a/0", "b/0")),
        ("step", 2.4375, 2.625, ("a/0", "b/0")),
        ("decode", 2.625, 3.125, ("a/0",)),
        ("step", 3.125, 3.25, ("b/0",)),
        ("step", 3.25, 3.375, ("b/0",)),
        ("step", 3.375, 3.5, ("b/0",)),
        ("decode", 3.5, 4.0, ("b/0",)),
    ]
    assert (1.25, {"a/0": ("denoising", 2), "b/0": ("encoding", 0)}) in bench.reports()


def test_the_cap_of_the_leader_bounds_the_window() -> None:
    bench = Bench()
    orders = [order("a", 1), order("b", 2), order("c", 1)]
    bench.tell(0.0, membership(1, ["a", "b", "c"], orders, caps=[2, 1, 1]))
    bench.run()
    steps = [latents for lane, _, _, latents in bench.batches() if lane == "step"]
    assert steps == [("a/0", "b/0"), ("b/0",), ("c/0",)]


def test_only_those_of_the_leaders_key_are_in_the_window() -> None:
    bench = Bench()
    orders = [order("a", 1), order("b", 1, size=128), order("c", 1)]
    bench.tell(0.0, membership(1, ["a", "b", "c"], orders))
    bench.run()
    steps = [latents for lane, _, _, latents in bench.batches() if lane == "step"]
    assert steps == [("a/0", "c/0"), ("b/0",)]


def test_images_of_a_job_are_encoded_once() -> None:
    bench = Bench()
    bench.tell(0.0, membership(1, ["a/0", "a/1"], [order("a", 1)]))
    bench.run()
    assert [lane for lane, *_ in bench.batches()] == ["encode", "step", "decode"]


def test_a_parked_latent_keeps_its_evaluations_and_its_encoding() -> None:
    bench = Bench()
    bench.tell(0.0, membership(1, ["a"], [order("a", 3)]))
    bench.tell(1.1, membership(2, [], parked=["a"]))
    bench.tell(5.0, membership(3, ["a"]))
    bench.run()
    assert [(lane, start) for lane, start, *_ in bench.batches()] == [
        ("encode", 0.0),
        ("step", 1.0),
        ("step", 5.0),
        ("step", 5.125),
        ("decode", 5.25),
    ]


def test_what_a_membership_does_not_name_is_dropped_and_begins_anew() -> None:
    bench = Bench()
    bench.tell(0.0, membership(1, ["a"], [order("a", 2)]))
    bench.tell(1.1, membership(2, []))
    bench.tell(4.0, membership(3, ["a"], [order("a", 2)]))
    bench.run()
    assert [lane for lane, *_ in bench.batches()] == ["encode", "step", "encode", "step", "step", "decode"]


def test_an_older_membership_is_ignored() -> None:
    bench = Bench()
    bench.tell(0.0, membership(2, ["a"], [order("a", 1)]))
    bench.tell(0.5, membership(1, ["b"], [order("b", 1)]))
    bench.run()
    assert {latents for _, _, _, latents in bench.batches()} == {("a/0",)}


def test_a_membership_may_name_the_boundary_that_it_is_for() -> None:
    bench = Bench()
    bench.tell(0.0, membership(1, ["a"], [order("a", 4)]))
    bench.tell(1.0625, membership(2, ["a", "b"], [order("b", 1)], after=("a/0", 3)))
    bench.run()
    assert [(lane, start) for lane, start, _, latents in bench.batches() if "b/0" in latents] == [
        ("encode", 1.375),
        ("step", 2.375),
        ("decode", 2.5625),
    ]


def test_a_job_without_an_order_is_missing() -> None:
    bench = Bench()
    bench.tell(0.0, membership(1, ["a"]))
    bench.run()
    (report,) = [message for _, message in bench.said if isinstance(message, WorkerReport)]
    assert report.missing == ("a",)
    assert not report.latents


def test_a_beat_tells_how_far_a_latent_is_within_a_stretch() -> None:
    bench = Bench()
    bench.tell(0.0, membership(1, ["a"], [order("a", 8)]))
    bench.agenda.at(1.3, lambda _: bench.worker.beat())
    bench.run()
    (state,) = bench.states()
    assert [(each.stage, each.evaluations) for each in state.latents] == [(Stage.DENOISING, 2)]
    assert state.membership == 1


def test_a_report_says_how_old_the_last_boundary_is() -> None:
    bench = Bench(store_s=0.25)
    bench.tell(0.0, membership(1, ["a", "b"], [order("a", 1), order("b", 8)]))
    bench.run()
    ages = {when: message.age_s for when, message in bench.said}
    # Encoded within the first round; a step of both to 1.6875, decoded within the next one to 2.1875, and stored 0.25 later.
    assert bench.batches()[2][:3] == ("decode", 1.6875, 2.1875)
    assert ages[1.5] == 1.5
    stored = next(report for when, report in bench.reports() if when == 2.4375)
    assert stored == {"a/0": ("done", 1), "b/0": ("denoising", 3)}
    assert ages[2.4375] == 0.0


def test_each_kind_of_batch_is_sampled_once_a_report() -> None:
    bench = Bench()
    bench.tell(0.0, membership(1, ["a"], [order("a", 3)]))
    bench.run()
    lanes = [lane for _, message in bench.said for lane in message.lanes]
    assert [(lane.lane, lane.key, lane.batch, lane.seconds) for lane in lanes] == [
        ("encode", "m/64x64", 1, 1.0),
        ("step", "m/64x64", 1, 0.125),
        ("decode", "m/64x64", 1, 0.5),
        ("store", "m/64x64", 1, 0.0),
    ]


def test_a_picture_is_stored_beside_the_device() -> None:
    bench = Bench(store_s=0.25)
    bench.tell(0.0, membership(1, ["a", "b"], [order("a", 1), order("b", 3)]))
    bench.run()
    done = {name: when for when, report in bench.reports() for name, (stage, _) in report.items() if stage == "done"}
    decoded = {latents[0]: end for lane, _, end, latents in bench.batches() if lane == "decode"}
    assert done == {name: end + 0.25 for name, end in decoded.items()}
    assert bench.batches()[3][:2] == ("step", decoded["a/0"])


_JOBS = {"a": (1, 64), "b": (2, 64), "c": (4, 64), "d": (3, 128)}
_LATENTS = [f"{job}/{image}" for job in _JOBS for image in range(2)]


@st.composite
def _wishes(draw: st.DrawFn) -> list[tuple[float, Membership]]:
    wishes = []
    ticks = sorted(draw(st.lists(st.integers(0, 12 * 16), min_size=1, max_size=6, unique=True)))
    for number, tick in enumerate(ticks, start=1):
        chosen = draw(st.lists(st.sampled_from(_LATENTS), unique=True))
        split = draw(st.integers(0, len(chosen)))
        running, parked = chosen[:split], chosen[split:]
        capped = draw(st.booleans())
        caps = draw(st.lists(st.integers(1, 4), min_size=split, max_size=split)) if capped else []
        orders = [order(job, *_JOBS[job]) for job in _JOBS]
        after = draw(st.none() | st.tuples(st.sampled_from(_LATENTS), st.integers(1, 5)))
        wishes.append((tick / 16, membership(number, running, orders, caps, parked, after)))
    return wishes


@given(_wishes())
def test_jumping_from_change_to_change_is_the_rule_at_every_boundary(wishes: list[tuple[float, Membership]]) -> None:
    bench = Bench()
    for when, wish in wishes:
        bench.tell(when, wish)
    bench.run()
    assert bench.batches() == Plodder(DEVICE, list(wishes)).run()
