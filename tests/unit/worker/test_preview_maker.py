"""Previews are made beside the steps, and whatever goes wrong with one costs that one alone."""

from typing import Any

from collodion.wire.jobs import LatentId, Parameters
from collodion.wire.to_worker import JobOrder
from collodion.worker.config import WorkerConfig
from collodion.worker.families.simulated import Simulated
from collodion.worker.latent import Latent, WorkerJob
from collodion.worker.metrics import WorkerMetrics
from collodion.worker.outbox import Outbox
from collodion.worker.preview import PreviewMaker


class OutOfMemory(Simulated):
    """A family whose device has no room left for a snapshot."""

    def snapshot(self, state: Any) -> Any:
        raise MemoryError


def begun(pipeline: Simulated) -> Latent:
    parameters = Parameters("simulated", "x", "", 64, 64, 4, "euler", 1.0, 1, 1)
    latent = Latent(LatentId("job", 0), WorkerJob(JobOrder("job", parameters, preview_interval=1), pipeline))
    plan = pipeline.prepare(parameters)
    latent.begin(plan, pipeline.begin(plan, "x", 1))
    latent.advance()
    return latent


def made() -> tuple[PreviewMaker, Outbox, WorkerMetrics]:
    outbox, metrics = Outbox(), WorkerMetrics()
    maker = PreviewMaker("me", outbox, metrics)
    maker.start()
    return maker, outbox, metrics


def test_a_preview_is_made_elsewhere_and_waits_to_be_sent() -> None:
    maker, outbox, _ = made()
    maker.offer(begun(Simulated("simulated", WorkerConfig())))
    message, picture = outbox.previews.get(timeout=10)
    assert (message.id, message.step, message.mime_type) == (LatentId("job", 0), 1, "image/jpeg")
    assert picture.startswith(b"\xff\xd8")
    maker.close()
    outbox.close()


def test_a_snapshot_that_does_not_fit_costs_the_preview_and_not_the_device_thread() -> None:
    maker, outbox, metrics = made()
    latent = begun(OutOfMemory("simulated", WorkerConfig()))
    maker.offer(latent)
    assert metrics.registry.get_sample_value("collodion_worker_previews_total", {"outcome": "dropped"}) == 1
    assert not latent.preview_pending
    maker.close()
    outbox.close()
