"""What the frontend tells Prometheus. Labels are bounded: method, code, kind of event, field; never a job or a tenant."""

import re

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

KINDS = ("accepted", "warning", "stage", "progress", "preview", "image", "image_chunk", "image_failed", "ended")
_PREFIX = "collodion_frontend_"
_INDEX = re.compile(r"\[.*\]", re.DOTALL)  # greedy: the key inside is the caller's


class Metrics:
    """The frontend's counters in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rpcs = Counter(f"{_PREFIX}rpcs", "RPCs ended.", ("method", "code"), registry=registry)
        self._violations = Counter(f"{_PREFIX}violations", "Fields out of their range.", ("field",), registry=registry)
        sent = Counter(f"{_PREFIX}events_sent", "Events written to streams.", ("kind",), registry=registry)
        gave_way = Counter(
            f"{_PREFIX}events_coalesced", "Events that gave way to a newer one.", ("kind",), registry=registry
        )
        # Looked up once: the lookup by label costs more than the counting.
        self.events_sent = {kind: sent.labels(kind) for kind in KINDS}
        self.events_coalesced = {kind: gave_way.labels(kind) for kind in KINDS}
        self.open_streams = Gauge(f"{_PREFIX}open_streams", "Streams that watch a job.", registry=registry)
        self.image_bytes_sent = Counter(f"{_PREFIX}image_bytes_sent", "Bytes of pictures written.", registry=registry)
        self.upload_bytes = Gauge(
            f"{_PREFIX}upload_bytes", "Encoded pictures of requests that are being read.", registry=registry
        )
        self.upload_seconds = Histogram(
            f"{_PREFIX}upload_seconds",
            "Decoding and storing a picture that was not stored yet.",
            buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
            registry=registry,
        )
        self.decode_errors = Counter(
            f"{_PREFIX}decode_errors", "Messages of the scheduler's that could not be decoded.", registry=registry
        )
        self.scheduler_up = Gauge(
            f"{_PREFIX}scheduler_reachable", "1 while the scheduler beats, else 0.", registry=registry
        )
        self.accepted_seconds = Histogram(
            f"{_PREFIX}submit_to_accepted_seconds",
            "From a call's arrival to the scheduler's acceptance.",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
            registry=registry,
        )

    def rpc_ended(self, method: str, code: str) -> None:
        """Counts an RPC by its method and status code."""
        self._rpcs.labels(method, code).inc()

    def violated(self, field: str) -> None:
        """Counts a field out of its range; which map key or element it was is left out."""
        self._violations.labels(_INDEX.sub("", field)).inc()
