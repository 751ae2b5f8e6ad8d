"""What a worker shows to Prometheus. Labels are bounded: models by the settings and their directory, lanes, stages and reasons by enums."""

import functools
import logging
from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from collodion.process.metrics import new_registry
from collodion.wire.jobs import ModelStatus, Reason, Residency, Stage
from collodion.worker.holdings import Held
from collodion.worker.optimize.observer import Observer
from collodion.worker.outbox import Sample

_log = logging.getLogger(__name__)

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_LOADS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
_GAPS = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05)
_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)


class WorkerMetrics:
    """All of them. `registry` is what the endpoint serves."""

    def __init__(self) -> None:
        self.registry = new_registry()
        self.evaluations = self._counter("evaluations", "Model calls, counted once for each latent in them.", "model")
        self.lane_seconds = self._histogram(
            "lane_seconds",
            "Seconds of a batch on the device (store: of a picture from its decoding to the store).",
            _SECONDS,
            "model",
            "lane",
        )
        self.batch_size = self._histogram(
            "batch_size",
            "Rows of a model call (encode: jobs, decode: latents, store: 1).",
            _BATCHES,
            "model",
            "lane",
        )
        self.gap_seconds = self._histogram("step_gap_seconds", "Idle time of the device between two steps.", _GAPS)
        self.images_stored = self._counter("images_stored", "Pictures put into the artifact store.", "model")
        self.image_seconds = self._histogram(
            "image_encode_seconds", "Seconds to encode and store a picture.", _SECONDS, "format"
        )
        self.pictures_waiting = Gauge(
            "collodion_worker_pictures_waiting", "Pictures that are decoded and not stored.", registry=self.registry
        )
        self.failures = self._counter("failures", "Latents that failed.", "reason")
        self.previews = self._counter("previews", "Previews by outcome: sent, unsent, dropped.", "outcome")
        self.decode_errors = self._counter("decode_errors", "Messages that could not be decoded.")
        self.reports = self._counter("reports", "Reports sent to the scheduler.")
        self.scheduler_away = Gauge(
            "collodion_worker_scheduler_away", "1: silent for too long.", registry=self.registry
        )
        self.model_loads = self._counter(
            "model_loads", "Models loaded, by outcome: loaded, failed, broken_off.", "outcome"
        )
        self.model_load_seconds = self._histogram("model_load_seconds", "Seconds to load a model.", _LOADS, "model")
        self._fast_engine = _FastEngine(self._counter)
        self._models = Gauge(
            "collodion_worker_models", "Models known, by where they are.", ["residency"], registry=self.registry
        )
        self._model_bytes = Gauge(
            "collodion_worker_model_bytes", "Device memory that resident models take.", registry=self.registry
        )
        self._latents = Gauge("collodion_worker_latents", "Latents held.", ["stage"], registry=self.registry)
        self._spilled = Gauge(
            "collodion_worker_spilled_latents", "Latents whose state lies in host memory.", registry=self.registry
        )
        self._spilled_bytes = Gauge(
            "collodion_worker_spilled_bytes", "Device memory that they would take.", registry=self.registry
        )

    def show_latents(self, held: Callable[[], Held]) -> None:
        """Counts the latents held, by stage, and those spilled, whenever somebody asks."""
        for stage in Stage:
            self._latents.labels(stage).set_function(functools.partial(_count, held, stage))
        self._spilled.set_function(lambda: float(sum(latent.spilled_bytes > 0 for latent in held().latents)))
        self._spilled_bytes.set_function(lambda: float(sum(latent.spilled_bytes for latent in held().latents)))

    def show_models(self, statuses: Callable[[], tuple[ModelStatus, ...]]) -> None:
        """Counts the models, by where they are, whenever somebody asks."""
        for residency in Residency:
            self._models.labels(residency).set_function(functools.partial(_count_models, statuses, residency))
        self._model_bytes.set_function(
            lambda: float(sum(one.size_bytes for one in statuses() if one.residency is Residency.RESIDENT))
        )

    def observer(self, model: str, on_ready: Callable[[], None] = lambda: None) -> Observer:
        """Who counts what the fast engine of a model does. on_ready is called whenever something was made ready, on that thread."""
        return _Counting(self._fast_engine, model, on_ready)

    def loaded(self, model: str, load_s: float) -> None:
        """Notes that a model was loaded."""
        self.model_loads.labels("loaded").inc()
        self.model_load_seconds.labels(model).observe(load_s)

    def failed(self, reason: Reason) -> None:
        """Notes that a latent came to nothing."""
        self.failures.labels(reason).inc()

    def observe(self, sample: Sample) -> None:
        """Notes a batch; at level debug the log has each of them, from which a run's costs can be read."""
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("a batch", extra=sample._asdict())
        if sample.lane == "step":
            self.evaluations.labels(sample.model).inc(sample.evaluations)
        self.lane_seconds.labels(sample.model, sample.lane).observe(sample.seconds)
        self.batch_size.labels(sample.model, sample.lane).observe(sample.batch)
        if sample.gap_s is not None:
            self.gap_seconds.observe(sample.gap_s)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"collodion_worker_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"collodion_worker_{name}", text, labels, buckets=buckets, registry=self.registry)


class _FastEngine:
    """What an Observer is told, by model. counter: makes one of a name, a text and labels."""

    def __init__(self, counter: Callable[..., Counter]) -> None:
        self.eager_fallbacks = counter(
            "eager_fallbacks",
            "Calls that ran eagerly though the settings ask for compiled or captured ones.",
            "model",
            "reason",
        )
        self.made_ready = counter("made_ready", "Shapes made ready: compiled, captured.", "model", "what")
        self.made_ready_seconds = counter("made_ready_seconds", "Seconds that this took.", "model", "what")
        self.recompilations = counter("recompilations", "Compilations after a model was made ready: a defect.", "model")
        self.reused_evaluations = counter(
            "reused_evaluations", "Evaluations that used a step cache instead of the model's deep blocks.", "model"
        )
        self.prompts = counter("prompts", "Prompts by what was done: encoded, cached.", "model", "outcome")
        self.squeezed_decodes = counter(
            "squeezed_decodes",
            "Batches that did not fit the memory, by how they were decoded: sliced, tiled.",
            "model",
            "how",
        )


class _Counting(Observer):
    """Counts for one model. It may be told something at every step: what has but one label is found once."""

    def __init__(self, metrics: _FastEngine, model: str, on_ready: Callable[[], None]) -> None:
        self._metrics = metrics
        self._model = model
        self._on_ready = on_ready
        # From here on, as 0: what is counted for the first time would be no increase otherwise, and raise no alert.
        self._recompilations = metrics.recompilations.labels(model)
        self._reused = metrics.reused_evaluations.labels(model)

    def fell_back(self, reason: str) -> None:
        """See Observer."""
        self._metrics.eager_fallbacks.labels(self._model, reason).inc()

    def made_ready(self, what: str, seconds: float) -> None:
        """See Observer."""
        self._metrics.made_ready.labels(self._model, what).inc()
        self._metrics.made_ready_seconds.labels(self._model, what).inc(seconds)
        self._on_ready()

    def recompiled(self) -> None:
        """See Observer."""
        self._recompilations.inc()

    def reused(self, evaluations: int) -> None:
        """See Observer."""
        self._reused.inc(evaluations)

    def read(self, encoded: int, cached: int) -> None:
        """See Observer."""
        self._metrics.prompts.labels(self._model, "encoded").inc(encoded)
        self._metrics.prompts.labels(self._model, "cached").inc(cached)

    def squeezed(self, how: str) -> None:
        """See Observer."""
        self._metrics.squeezed_decodes.labels(self._model, how).inc()


def _count(held: Callable[[], Held], stage: Stage) -> float:
    return float(sum(latent.stage is stage for latent in held().latents))


def _count_models(statuses: Callable[[], tuple[ModelStatus, ...]], residency: Residency) -> float:
    return float(sum(status.residency is residency for status in statuses()))
