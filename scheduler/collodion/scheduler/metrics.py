"""What the scheduler shows to Prometheus. Labels are bounded: states, tiers, reasons, kinds of message or device; no job, tenant, model."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from collodion.scheduler.core import Core
from collodion.scheduler.events import Command, Persist, TellFrontend, TellWorker
from collodion.scheduler.job import Promise
from collodion.wire.jobs import JobState
from collodion.wire.to_frontend import JobEvent, JobView, Refused
from collodion.wire.to_worker import Membership

_BATCHES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
_HANDLING_S = (2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.1, 1.0)
_ERROR_S = (-60, -10, -5, -2, -1, -0.5, -0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)
_ERROR = (-0.9, -0.5, -0.3, -0.2, -0.1, -0.05, -0.02, 0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2)
_LEAST_S = 1e-3
_LOAD_S = (0.1, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320)
_JOB_S = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)


class Metrics:
    """The scheduler's figures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        name = "collodion_scheduler_"
        self._add_load(name, registry)
        self._add_outcomes(name, registry)
        self._add_promises(name, registry)
        self._add_traffic(name, registry)
        self._add_models(name, registry)

    def _add_load(self, name: str, registry: CollectorRegistry) -> None:
        self.jobs = Gauge(f"{name}jobs", "Unfinished jobs.", ["state"], registry=registry)
        self.latents = Gauge(f"{name}latents", "Images of unfinished jobs.", ["stage"], registry=registry)
        self.promised = Gauge(f"{name}jobs_promised", "Unfinished jobs whose deadline is promised.", registry=registry)
        self.queue = Gauge(f"{name}queue_latents", "Images that wait, and no worker holds.", registry=registry)
        self.promised_queue = Gauge(
            f"{name}queue_promised_latents", "Those of them whose deadline is promised.", registry=registry
        )
        self.queue_seconds = Gauge(
            f"{name}queue_seconds",
            "Predicted device time of all unfinished jobs in the best of company, per worker.",
            registry=registry,
        )
        self.margins = Gauge(
            f"{name}prediction_margin_ratio",
            "Relative error that predictions allow for, the largest of a kind of device.",
            ["device_kind"],
            registry=registry,
        )
        self.workers = Gauge(f"{name}workers", "Workers that are alive.", registry=registry)
        self.frontends = Gauge(f"{name}frontends", "Frontends that are heard.", registry=registry)

    def _add_outcomes(self, name: str, registry: CollectorRegistry) -> None:
        self.ended = Counter(f"{name}jobs_ended", "Jobs that ended.", ["outcome", "tier"], registry=registry)
        self.deadlines = Counter(
            f"{name}deadlines", "Jobs with a deadline that finished or failed.", ["met", "tier"], registry=registry
        )
        self.job_seconds = Histogram(
            f"{name}job_seconds",
            "From acceptance to the end of finished jobs.",
            ["tier"],
            buckets=_JOB_S,
            registry=registry,
        )

    def _add_traffic(self, name: str, registry: CollectorRegistry) -> None:
        self.batch = Histogram(
            f"{name}membership_latents", "Images to run in each membership sent.", buckets=_BATCHES, registry=registry
        )
        self.handling = Histogram(
            f"{name}decision_seconds",
            "Time to handle one event, decisions included.",
            buckets=_HANDLING_S,
            registry=registry,
        )
        self.received = Counter(f"{name}messages_received", "Messages heard.", ["kind"], registry=registry)
        self.sent = Counter(f"{name}messages_sent", "Messages said.", ["kind"], registry=registry)
        self.events = Counter(f"{name}events_sent", "Job events said to frontends.", ["event"], registry=registry)
        self.send_failures = Counter(
            f"{name}send_failures", "Messages a peer had no room for.", ["peer"], registry=registry
        )
        self.decode_errors = Counter(f"{name}decode_errors", "Messages that were none.", ["peer"], registry=registry)
        self.handler_errors = Counter(f"{name}handler_errors", "Events whose handling broke off.", registry=registry)

    def _add_promises(self, name: str, registry: CollectorRegistry) -> None:
        self.admissions = Counter(
            f"{name}admissions", "Jobs accepted, by what they were told.", ["verdict", "tier"], registry=registry
        )
        self.refusals = Counter(f"{name}refusals", "Calls refused.", ["reason"], registry=registry)
        self.promises = Counter(
            f"{name}promises", "Promises given, by what became of them.", ["outcome", "tier"], registry=registry
        )
        self.error_seconds = Histogram(
            f"{name}prediction_error_seconds",
            "When promised jobs finished less when that was predicted as they were promised.",
            buckets=_ERROR_S,
            registry=registry,
        )
        self.error_ratio = Histogram(
            f"{name}prediction_error_ratio",
            "The same over the time that was predicted.",
            buckets=_ERROR,
            registry=registry,
        )

    def _add_models(self, name: str, registry: CollectorRegistry) -> None:
        self.copies = Gauge(
            f"{name}models", "Models, counted once for each worker that knows them.", ["residency"], registry=registry
        )
        self.waiting_models = Gauge(
            f"{name}models_waiting", "Models that are asked for, and have no room anywhere.", registry=registry
        )
        self.load_seconds = Histogram(
            f"{name}model_load_seconds",
            "What loading models took that were wished for.",
            buckets=_LOAD_S,
            registry=registry,
        )
        self.dropped = Counter(
            f"{name}models_dropped", "Models that had to leave a worker's memory.", registry=registry
        )

    def done(self, command: Command) -> None:
        """Counts a command that was carried out."""
        if isinstance(command, Persist) and command.view.ended is None:
            self.admissions.labels(_verdict(command), command.view.spec.tier).inc()
        elif isinstance(command, Persist):
            self._job_ended(command.view)
            if command.promise is not None:
                self._promise_ended(command.view, command.promise)
        elif isinstance(command, TellFrontend | TellWorker):
            self.sent.labels(type(command.message).__name__).inc()
            if isinstance(command.message, JobEvent):
                self.events.labels(type(command.message.event).__name__).inc(len(command.message.calls))
            elif isinstance(command.message, Refused):
                self.refusals.labels(command.message.reason.value).inc()
            elif isinstance(command.message, Membership):
                self.batch.observe(len(command.message.running))

    def sample(self, core: Core) -> None:
        """Sets the gauges."""
        census = core.census()
        for state, count in census.jobs.items():
            self.jobs.labels(state.value).set(count)
        for stage, count in census.latents.items():
            self.latents.labels(stage.value).set(count)
        self.promised.set(census.promised_jobs)
        self.queue.set(census.queued_latents)
        self.promised_queue.set(census.promised_queued_latents)
        self.queue_seconds.set(census.work_s)
        self.margins.clear()
        for device_kind, margin in census.margins.items():
            self.margins.labels(device_kind).set(margin)
        self.workers.set(census.workers)
        self.frontends.set(census.frontends)
        for residency, count in census.copies.items():
            self.copies.labels(residency.value).set(count)
        self.waiting_models.set(census.waiting_models)
        loaded_s, dropped = core.residency.done()
        for seconds in loaded_s:
            self.load_seconds.observe(seconds)
        self.dropped.inc(dropped)

    def _job_ended(self, view: JobView) -> None:
        tier = view.spec.tier
        self.ended.labels(view.state.value, tier).inc()
        if view.deadline_met is not None and view.state is not JobState.CANCELLED:
            self.deadlines.labels(str(view.deadline_met).lower(), tier).inc()
        if view.state is JobState.FINISHED and view.timings is not None:
            self.job_seconds.labels(tier).observe(view.timings.total_s)

    def _promise_ended(self, view: JobView, promise: Promise) -> None:
        self.promises.labels(_outcome(view), view.spec.tier).inc()
        if view.promised and view.state is JobState.FINISHED and view.ended is not None:
            error_s = view.ended - promise.finish
            self.error_seconds.observe(error_s)
            self.error_ratio.observe(error_s / max(promise.finish - promise.given, _LEAST_S))


def _verdict(accepted: Persist) -> str:
    """What a job with a deadline was told: promised, degraded, best_effort; no_deadline, if it has none."""
    if accepted.view.promised:
        return "degraded" if accepted.warning == "DEGRADED" else "promised"
    return "no_deadline" if accepted.view.deadline is None else "best_effort"


def _outcome(view: JobView) -> str:
    """What became of a promise. Withdrawn: the client hung up for a while, or a worker was lost and no other could keep it."""
    if not view.promised:
        return "withdrawn"
    if view.state is JobState.CANCELLED:
        return "cancelled"
    return "kept" if view.deadline_met else "broken"
