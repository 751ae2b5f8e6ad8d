"""What a worker makes of a scheduler's words, in any order, twice, or not at all; on real sockets."""

import io
import json

import pytest
import zmq
from PIL import Image

from collodion.process.running import endpoint
from collodion.wire.jobs import LatentId, OutputFormat, Reason, Stage
from collodion.wire.to_scheduler import PreviewMade, WorkerLeft, WorkerReport, WorkerState
from collodion.worker.config import WorkerConfig
from collodion.worker.process import Worker

FIRST = LatentId("job", 0)
LONG = {"steps": 150}
SLOW = ("10",)


@pytest.fixture
def worker(start_worker, scheduler):
    """Connected, and slow enough that a job of LONG steps does not end by itself during a test."""
    worker = start_worker(simulated_step_ms=SLOW)
    scheduler.hello()
    return worker


def test_it_says_who_it_is_and_goes_on_saying_it(worker, scheduler):
    for _ in range(2):
        state = scheduler.hello()
        assert (state.name, state.device, state.scheduler, state.membership) == ("worker-0", "simulated", "", 0)
        assert (state.device_kind, state.encode_batch, state.decode_batch) == ("simulated", 8, 4)
        assert [model.name for model in state.models] == ["simulated"]


def test_stages_and_progress_are_reported_in_order(worker, scheduler, order):
    scheduler.wish(running=(FIRST,), orders=(order(steps=10),))
    scheduler.latent(FIRST, Stage.DONE)
    reports = [report for said in scheduler.heard if not isinstance(said, WorkerLeft) for report in said.latents]
    stages = list(dict.fromkeys(report.stage for report in reports))
    assert stages == [
        stage for stage in (Stage.ENCODING, Stage.DENOISING, Stage.DECODING, Stage.DONE) if stage in stages
    ]
    assert stages[-2:] == [Stage.DECODING, Stage.DONE]
    assert [report.steps for report in reports] == sorted(report.steps for report in reports)
    assert reports[-1].evaluations == 10


def test_what_batches_cost_is_reported_by_lane(worker, scheduler, order):
    scheduler.wish(running=(FIRST,), orders=(order(steps=3),))
    scheduler.hear(lambda said: isinstance(said, WorkerReport) and any(lane.lane == "store" for lane in said.lanes))
    lanes = [lane for said in scheduler.heard if isinstance(said, WorkerReport) for lane in said.lanes]
    assert [lane.lane for lane in lanes] == ["encode", "step", "step", "step", "decode", "store"]
    assert {(lane.key, lane.batch) for lane in lanes} == {("simulated/64x64", 1)}
    assert all(0.005 < lane.seconds < 5 for lane in lanes if lane.lane == "step")


def test_a_finished_latent_is_said_again_until_it_is_no_longer_named(worker, scheduler, order):
    scheduler.wish(running=(FIRST,), orders=(order(),))
    scheduler.latent(FIRST, Stage.DONE)
    assert [latent.stage for latent in scheduler.hello().latents] == [Stage.DONE]
    membership = scheduler.wish()
    scheduler.applied(membership.number)
    assert scheduler.hello().latents == ()


def test_a_parked_latent_waits_and_goes_on_where_it_was(worker, scheduler, order):
    scheduler.wish(running=(FIRST,), orders=(order(steps=12),))
    scheduler.latent(FIRST, Stage.DENOISING)
    scheduler.wish(running=(), parked=(FIRST,))
    parked = scheduler.latent(FIRST, Stage.PARKED)
    assert 0 < parked.evaluations < 12
    assert scheduler.hello().latents[0].evaluations == scheduler.hello().latents[0].evaluations
    scheduler.wish(running=(FIRST,))
    assert scheduler.latent(FIRST, Stage.DONE).evaluations == 12


def test_the_next_in_line_runs_without_another_word(worker, scheduler, order):
    second, wide = LatentId("second", 0), LatentId("wide", 0)
    orders = (order(steps=3), order(job="second", steps=3), order(job="wide", steps=2, width=128))
    scheduler.wish(running=(FIRST, second, wide), caps=(1, 1, 1), orders=orders)
    scheduler.latent(wide, Stage.DONE)
    lanes = [lane for said in scheduler.heard if isinstance(said, WorkerReport) for lane in said.lanes]
    steps = [(lane.key, lane.batch) for lane in lanes if lane.lane == "step"]
    assert steps == [("simulated/64x64", 1)] * 6 + [("simulated/128x64", 1)] * 2
    assert worker.outbox.held.membership == 1


def test_a_wish_waits_for_its_boundary_and_is_confirmed_when_it_holds(worker, scheduler, order):
    second = LatentId("second", 0)
    scheduler.wish(running=(FIRST,), orders=(order(steps=20),))
    scheduler.wish(running=(second,), parked=(FIRST,), after=(FIRST, 5), orders=(order(job="second", steps=2),))
    parked = scheduler.latent(FIRST, Stage.PARKED)
    assert parked.evaluations == 5
    scheduler.latent(second, Stage.DONE)
    reports = [said for said in scheduler.heard if isinstance(said, WorkerReport) and said.lanes]
    assert all(said.age_s >= 0 for said in reports)
    assert [said.membership for said in reports] == sorted(said.membership for said in reports)


def test_a_dropped_latent_is_forgotten_and_starts_anew_if_it_is_wished_for_again(worker, scheduler, order):
    scheduler.wish(running=(FIRST,), orders=(order(**LONG),))
    scheduler.latent(FIRST, Stage.DENOISING)
    scheduler.applied(scheduler.wish().number)
    membership = scheduler.wish(running=(FIRST,))
    assert scheduler.report(membership.number).missing == ("job",)
    scheduler.wish(running=(FIRST,), orders=(order(steps=2),))
    assert scheduler.latent(FIRST, Stage.DONE).evaluations == 2


def test_missing_orders_are_named_and_the_others_run(worker, scheduler, order):
    stranger = LatentId("stranger", 0)
    membership = scheduler.wish(running=(stranger, FIRST), orders=(order(steps=2),))
    assert scheduler.report(membership.number).missing == ("stranger",)
    scheduler.latent(FIRST, Stage.DONE)
    scheduler.wish(running=(stranger,), orders=(order(job="stranger", steps=2),))
    scheduler.latent(stranger, Stage.DONE)


def test_old_repeated_and_foreign_memberships_change_nothing(worker, scheduler, order):
    current = scheduler.wish(number=5, running=(FIRST,), orders=(order(**LONG),))
    scheduler.latent(FIRST, Stage.DENOISING)
    for number, incarnation in (
        (5, scheduler.worker),
        (4, scheduler.worker),
        (0, scheduler.worker),
        (6, "another worker"),
    ):
        scheduler.wish(number=number, worker=incarnation, running=())
    for _ in range(2):
        state = scheduler.hello()
        assert state.membership == current.number
        assert [latent.id for latent in state.latents] == [FIRST]


def test_only_the_newest_of_many_memberships_counts(worker, scheduler, order):
    for number in (3, 9, 4, 8):
        scheduler.wish(
            number=number, running=(LatentId(f"job{number}", 0),), orders=(order(job=f"job{number}", **LONG),)
        )
    scheduler.latent(LatentId("job9", 0), Stage.DENOISING)
    assert [latent.id.job for latent in scheduler.hello().latents] == ["job9"]


def test_garbage_is_dropped_and_counted(worker, scheduler, order):
    for frames in (
        [b""],
        [b"\xc1"],
        [b"\x81\xa4type\xa4Nope"],
        [b"[" * 100_000],
        [b"\x93" * 100_000],
        [b"a", b"b", b"c"],
    ):
        scheduler.router.socket.send_multipart([scheduler.peer, *frames])
    scheduler.wish(running=(FIRST,), orders=(order(),))
    scheduler.latent(FIRST, Stage.DONE)
    assert worker.metrics.registry.get_sample_value("collodion_worker_decode_errors_total") == 6


def test_a_restarted_scheduler_finds_the_worker_empty_and_can_use_it(worker, scheduler, order, another_scheduler):
    scheduler.wish(running=(FIRST,), orders=(order(**LONG),))
    scheduler.latent(FIRST, Stage.DENOISING)
    scheduler.close()
    successor = another_scheduler()
    assert successor.hello().incarnation == scheduler.worker
    successor.beat()
    assert successor.applied(0).latents == ()
    successor.wish(running=(FIRST,), orders=(order(steps=2),))
    assert successor.latent(FIRST, Stage.DONE).evaluations == 2


def test_a_replaced_scheduler_is_not_listened_to_again(worker, scheduler, order):
    first = scheduler.incarnation
    scheduler.wish(running=(FIRST,), orders=(order(**LONG),))
    scheduler.latent(FIRST, Stage.DENOISING)
    scheduler.incarnation = "successor"
    scheduler.beat()
    scheduler.applied(0)
    scheduler.wish(scheduler=first, number=99, running=(FIRST,), orders=(order(**LONG),))
    for _ in range(2):
        state = scheduler.hello()
        assert (state.scheduler, state.latents) == ("successor", ())


def test_it_waits_for_a_scheduler_that_comes_later(start_worker, tmp_path, another_scheduler):
    start_worker()
    assert isinstance(another_scheduler().hello(), WorkerState)


def test_heartbeats_go_on_during_a_long_model_call(start_worker, scheduler, order):
    start_worker(simulated_step_ms=("2000",), beat_s=0.1)
    scheduler.hello()
    scheduler.wish(running=(FIRST,), orders=(order(steps=1),))
    scheduler.latent(FIRST, Stage.DENOISING)
    for _ in range(5):
        assert scheduler.hello().latents[0].evaluations == 0


def test_a_job_that_raises_or_goes_non_finite_fails_alone(worker, scheduler, order):
    jobs = {"good": "a circle", "raises": "[raise] a circle", "lost": "[nan] a circle"}
    latents = {job: LatentId(job, 0) for job in jobs}
    orders = tuple(order(job=job, prompt=prompt) for job, prompt in jobs.items())
    scheduler.wish(running=tuple(latents.values()), orders=orders)
    assert scheduler.latent(latents["good"], Stage.DONE).evaluations == 4
    failures = {report.id.job: report.failure for report in scheduler.hello().latents if report.failure}
    assert {job: failure.reason for job, failure in failures.items()} == {
        "raises": Reason.WORKER_ERROR,
        "lost": Reason.NON_FINITE_LATENT,
    }
    assert "RuntimeError: this prompt asked for an error" in failures["raises"].message


def test_a_model_or_sampler_that_is_not_there_fails_the_job_with_its_reason(worker, scheduler, order):
    orders = (order(job="model", model="unheard-of"), order(job="sampler", sampler="unheard-of"))
    scheduler.wish(running=(LatentId("model", 0), LatentId("sampler", 0)), orders=orders)
    assert scheduler.latent(LatentId("model", 0), Stage.STOPPED).failure.reason is Reason.WORKER_ERROR
    assert scheduler.latent(LatentId("sampler", 0), Stage.STOPPED).failure.reason is Reason.SAMPLER_REFUSED


def test_a_picture_that_cannot_be_stored_fails_its_latent(worker, scheduler, order, tmp_path):
    (tmp_path / "artifacts" / "job").write_text("in the way of the job's directory")
    scheduler.wish(running=(FIRST,), orders=(order(),))
    assert scheduler.latent(FIRST, Stage.STOPPED).failure.reason is Reason.ARTIFACT_NOT_STORED


def test_previews_come_every_so_many_steps_as_small_pictures(worker, scheduler, order):
    scheduler.wish(running=(FIRST,), orders=(order(steps=10, preview_interval=3, width=512, height=256),))
    scheduler.latent(FIRST, Stage.DONE)
    steps = [said.step for said in scheduler.heard if isinstance(said, PreviewMade)]
    assert steps == [3, 6, 9]
    for encoded in scheduler.previews:
        assert len(encoded) < 10_000
        assert Image.open(io.BytesIO(encoded)).size == (128, 64)


def test_every_image_of_a_job_has_its_own_seed(worker, scheduler, order):
    latents = [LatentId("job", image) for image in range(3)]
    scheduler.wish(running=tuple(latents), orders=(order(images=3, seed=10, output_format=OutputFormat.WEBP),))
    state = scheduler.hear(
        lambda said: isinstance(said, WorkerState) and [one.stage for one in said.latents] == [Stage.DONE] * 3
    )
    images = [latent.image for latent in state.latents]
    assert [(image.index, image.seed) for image in images] == [(0, 10), (1, 11), (2, 12)]
    assert {image.mime_type for image in images} == {"image/webp"}
    assert len({image.sha256 for image in images}) == 3


def test_nobody_waits_for_a_scheduler_that_does_not_read(start_worker, scheduler, order):
    worker = start_worker(report_interval_s=0.001)
    scheduler.hello()
    scheduler.wish(running=(FIRST,), orders=(order(steps=150, preview_interval=1),))
    while (
        worker.metrics.registry.get_sample_value("collodion_worker_images_stored_total", {"model": "simulated"}) is None
    ):
        scheduler.router.socket.poll(10)  # messages wait there unread
    assert scheduler.latent(FIRST, Stage.DONE).evaluations == 150


def test_a_worker_that_is_told_to_end_stores_what_is_finished_and_says_that_it_leaves(worker, scheduler, order):
    scheduler.wish(running=(FIRST,), orders=(order(**LONG),))
    scheduler.latent(FIRST, Stage.DENOISING)
    worker.end()
    left = scheduler.hear(lambda message: isinstance(message, WorkerLeft))
    assert left == WorkerLeft(incarnation=scheduler.worker)


def test_the_endpoint_survives_a_stranger_on_its_socket(worker, scheduler, tmp_path, order):
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.connect(endpoint(tmp_path, "worker"))
    stranger.send(json.dumps({"type": "WorkerState"}).encode())
    scheduler.wish(running=(FIRST,), orders=(order(),))
    scheduler.latent(FIRST, Stage.DONE)
    stranger.close(0)
    context.term()


def test_what_was_done_is_counted(worker, scheduler, order):
    jobs = {"good": "x", "bad": "[raise]"}
    latents = tuple(LatentId(job, 0) for job in jobs)
    scheduler.wish(
        running=latents, orders=tuple(order(job=job, prompt=prompt, preview_interval=1) for job, prompt in jobs.items())
    )
    scheduler.latent(latents[0], Stage.DONE)
    scheduler.hello()
    value = worker.metrics.registry.get_sample_value
    assert value("collodion_worker_evaluations_total", {"model": "simulated"}) == 5  # one of them beside the bad one
    assert value("collodion_worker_lane_seconds_count", {"model": "simulated", "lane": "decode"}) == 1
    assert value("collodion_worker_batch_size_count", {"model": "simulated", "lane": "step"}) == 4
    assert value("collodion_worker_step_gap_seconds_count") >= 1
    assert value("collodion_worker_failures_total", {"reason": "WORKER_ERROR"}) == 1
    assert value("collodion_worker_images_stored_total", {"model": "simulated"}) == 1
    assert value("collodion_worker_image_encode_seconds_count", {"format": "png"}) == 1
    assert value("collodion_worker_previews_total", {"outcome": "sent"}) >= 1
    assert value("collodion_worker_latents", {"stage": "done"}) == 1
    assert value("collodion_worker_latents", {"stage": "stopped"}) == 1
    assert value("collodion_worker_reports_total") >= 2


def test_a_broken_loop_ends_the_process_with_code_1(tmp_path, monkeypatch):
    config = WorkerConfig(models=("simulated",), run_dir=tmp_path, artifacts=tmp_path / "artifacts", metrics_port=0)
    worker = Worker(config)
    monkeypatch.setattr(worker._engine, "round", lambda: 1 / 0)
    assert worker.run() == 1


def test_a_burst_that_ends_at_once_is_decoded_to_the_last_one(worker, scheduler, order):
    for job in ("first", "second"):  # by the second nothing is left over that could wake the device thread
        latents = tuple(LatentId(job, image) for image in range(11))
        scheduler.wish(running=latents, orders=(order(job=job, steps=1, images=11),))
        scheduler.hear(
            lambda said: isinstance(said, WorkerState) and [one.stage for one in said.latents] == [Stage.DONE] * 11
        )


def test_what_is_applied_is_confirmed_without_waiting_for_the_next_beat(start_worker, scheduler, order):
    start_worker(beat_s=60.0)
    scheduler.hello()
    scheduler.applied(scheduler.wish().number)
    scheduler.wish(running=(FIRST,), orders=(order(),))
    scheduler.latent(FIRST, Stage.DONE)
    scheduler.applied(scheduler.wish(running=(), parked=(FIRST,)).number)
    scheduler.applied(scheduler.wish().number)
