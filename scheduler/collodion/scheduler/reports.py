"""What a worker's message does: its state and its reports are one and the same, said again and again.

1. A report counts for a latent if the worker holds it and has applied a membership that named it: so what was under way when
   the latent was placed there, and what comes from another incarnation or for another scheduler, says nothing.
2. A worker that confirms our last membership but does not hold a latent of it, lacks its job's order or has begun it anew, has
   lost it: the latent waits again, and is placed anew, so that what we believe of it is never ahead of what there is.
3. A worker that missed its beats is dead, whatever it may still do; if it comes back it is a new one to us.
"""

import logging

from collodion.scheduler.cost_model import CostModel
from collodion.scheduler.dispatch import Dispatch
from collodion.scheduler.fleet import Fleet, Worker
from collodion.scheduler.job import Latent
from collodion.scheduler.lifecycle import Lifecycle
from collodion.scheduler.residency import ResidencyRule
from collodion.scheduler.transitions import ACTIVE
from collodion.scheduler.watchers import Watchers
from collodion.wire.jobs import LatentId, Stage
from collodion.wire.to_frontend import Previewed
from collodion.wire.to_scheduler import FromWorker, LatentReport, PreviewMade, WorkerLeft, WorkerReport, WorkerState

_log = logging.getLogger(__name__)


class Reports:
    """Handles what workers say."""

    def __init__(
        self,
        incarnation: str,
        fleet: Fleet,
        dispatch: Dispatch,
        lifecycle: Lifecycle,
        watchers: Watchers,
        costs: CostModel,
        residency: ResidencyRule,
    ) -> None:
        self._incarnation = incarnation
        self._fleet = fleet
        self._residency = residency
        self._dispatch = dispatch
        self._lifecycle = lifecycle
        self._watchers = watchers
        self._costs = costs

    def handle(self, peer: bytes, message: FromWorker, opaque: bytes, now: float) -> bool:
        """One message; whether the worker is one we did not know before and do not know now."""
        worker = self._fleet.workers.get(peer)
        if worker is not None and worker.incarnation != message.incarnation:
            if not isinstance(message, WorkerState):
                return False
            self.lose(worker, by_death=True, now=now)
            worker = None
        if isinstance(message, WorkerState):
            self._state(worker or self._found(peer, message, now), message, now)
            return False
        if worker is None:
            return not isinstance(message, WorkerLeft)
        worker.heard = now
        if isinstance(message, WorkerReport):
            self._report(worker, message, now)
        elif isinstance(message, PreviewMade):
            self._preview(worker, message, opaque, now)
        else:
            self.lose(worker, by_death=False, now=now)
        return False

    def lose(self, worker: Worker, by_death: bool, now: float) -> None:
        """The worker is dead or left: what it held waits for others."""
        self._fleet.remove(worker)
        self._residency.lost(worker, by_death)
        self._dispatch.lose(worker)
        held, worker.held = list(worker.held.values()), {}
        _log.warning("lost a worker", extra={"worker": worker.name, "died": by_death, "latents": len(held)})
        for latent in held:
            ran = latent in worker.running[: worker.cap] or latent.stage in ACTIVE
            self._lifecycle.lose(latent, by_death and ran, now)

    def _found(self, peer: bytes, state: WorkerState, now: float) -> Worker:
        worker = self._fleet.add(peer, state, now)
        models = ",".join(sorted(worker.statuses))
        _log.info("found a worker", extra={"worker": worker.name, "device": worker.device, "models": models})
        return worker

    def _state(self, worker: Worker, state: WorkerState, now: float) -> None:
        worker.heard = now
        self._fleet.describe(worker, state)
        self._residency.heard(worker, state, now)
        self._free_stranded(worker, now)
        self._dispatch.concern(worker)
        ours = state.scheduler == self._incarnation
        if ours:
            worker.confirm(state.membership)
            self._progress(worker, state.membership, state.latents, now)
        if ours and state.membership == worker.number:
            held = {report.id: report.evaluations for report in state.latents}
            lost = [latent for latent in worker.held.values() if held.get(latent.id, -1) < latent.evaluations]
            self._lose_latents(worker, lost, now)
        elif not ours or state.membership < worker.number:
            self._dispatch.resend(worker)

    def _report(self, worker: Worker, report: WorkerReport, now: float) -> None:
        for lane in report.lanes:
            self._costs.learn(worker.device_kind, lane.lane, lane.key, lane.batch, lane.seconds)
        if report.scheduler != self._incarnation:
            return
        worker.confirm(report.membership)
        stepped = {
            one.id
            for one in report.latents
            if one.stage is Stage.DENOISING
            and (latent := worker.held.get(one.id)) is not None
            and one.evaluations > latent.evaluations
        }
        self._progress(worker, report.membership, report.latents, now)
        self._dispatch.observe(worker, stepped, now - max(0.0, report.age_s), now)
        # An older membership may have lacked what a later one, under way, brings.
        if report.missing and report.membership == worker.number:
            missing = frozenset(report.missing)
            self._lose_latents(worker, [latent for latent in worker.held.values() if latent.id.job in missing], now)

    def _progress(self, worker: Worker, number: int, reports: tuple[LatentReport, ...], now: float) -> None:
        held, progress = worker.held, self._lifecycle.progress
        for report in reports:
            latent = held.get(report.id)
            if latent is not None and 0 < latent.since <= number and latent.stage is not Stage.STOPPED:
                progress(latent, report, now)

    def _preview(self, worker: Worker, preview: PreviewMade, opaque: bytes, now: float) -> None:
        latent = self._held(worker, preview.id)
        if latent is None or preview.scheduler != self._incarnation or preview.step <= latent.previewed:
            return
        latent.previewed = preview.step
        self._watchers.tell(latent.job.id, Previewed(latent.id.image, preview.step, preview.mime_type), now, opaque)

    def _lose_latents(self, worker: Worker, latents: list[Latent], now: float) -> None:
        for latent in latents:
            _log.warning("a worker lost a latent", extra={"worker": worker.name, "job": latent.id.job})
            worker.release(latent)
            worker.lacks(latent.id.job)
            self._lifecycle.lose(latent, by_death=False, now=now)
            self._dispatch.renew(worker)

    def _free_stranded(self, worker: Worker, now: float) -> None:
        """It let a model go, by the wish of a scheduler before us, while we placed latents of it: they wait again, and ask for it."""
        stranded = self._residency.placement.stranded(worker)
        self._lose_latents(worker, [latent for latent in stranded if latent.worker == worker.peer], now)
        for latent in stranded:
            if latent.planned == worker.peer:
                self._lifecycle.lose(latent, by_death=False, now=now)

    def _held(self, worker: Worker, latent_id: LatentId) -> Latent | None:
        latent = worker.held.get(latent_id)
        return latent if latent is not None and latent.stage is not Stage.STOPPED else None
