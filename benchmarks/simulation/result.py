"""What a simulation came to."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from simulation.instance import Instance
from simulation.ledger import Outcome, Record
from simulation.meter import Handling
from simulation.recorder import Segment

_WARM_UP = 0.1  # of the time of arrivals, before goodput is counted


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one policy. `in_system` is (seconds, requests not yet decided); `segments` is empty unless a timeline was asked for."""

    policy: str
    instance: Instance
    records: tuple[Record, ...]
    evaluations: int
    step_batches: int
    busy_s: float
    ended_s: float
    wall_s: float
    handlings: dict[str, Handling]
    in_system: tuple[tuple[float, int], ...]
    segments: tuple[Segment, ...] = ()

    def figures(self) -> dict[str, float]:
        """All that is tabulated, by name. Shares are 0 to 1, and 1 of nothing; times are seconds."""
        requests, records = self.instance.requests, self.records
        dated = [record for record in records if requests[record.index].slo_s is not None]
        on_time = [record for record in dated if record.on_time]
        promised = [record for record in dated if record.promised]
        latencies = sorted(
            record.finish - requests[record.index].release for record in records if record.finish is not None
        )
        events = sum(each.count for each in self.handlings.values())
        scheduler_s = sum(each.total_s for each in self.handlings.values())
        return {
            "jobs": len(records),
            "attainment": share(len(on_time), len(dated)),
            "attainment_evaluations": share(self._asked(on_time, granted=True), self._asked(dated)),
            "attainment_weight": share(
                sum(requests[each.index].weight for each in on_time), sum(requests[each.index].weight for each in dated)
            ),
            "promised": len(promised),
            "kept": share(sum(record.on_time for record in promised), len(promised)),
            "refused": sum(record.outcome is Outcome.REFUSED for record in records),
            "dropped": sum(record.outcome in (Outcome.FAILED, Outcome.CANCELLED) for record in records),
            "open": sum(record.outcome is Outcome.OPEN for record in records),
            "goodput": self._goodput(),
            "latency_p50": quantile(latencies, 0.5),
            "latency_p95": quantile(latencies, 0.95),
            "latency_p99": quantile(latencies, 0.99),
            "mean_batch": self.evaluations / max(1, self.step_batches),
            "busy": self.busy_s / max(1e-9, self.ended_s * len(self.instance.devices)),
            "evaluations": self.evaluations,
            "evaluations_per_wall_s": self.evaluations / max(1e-9, self.wall_s),
            "wall_s": self.wall_s,
            "events": events,
            "cpu_per_event": scheduler_s / max(1, events),
            **self._prediction_errors(),
            **self._by_tenants(),
        }

    def attainment_of(self, tenants: frozenset[str]) -> float:
        """Share of these tenants' requests with a deadline that met it."""
        requests = self.instance.requests
        theirs = [
            record
            for record in self.records
            if requests[record.index].tenant in tenants and requests[record.index].slo_s is not None
        ]
        return share(sum(record.on_time for record in theirs), len(theirs))

    def _prediction_errors(self) -> dict[str, float]:
        """Finish against what was predicted at acceptance, relative to the predicted time from release."""
        requests = self.instance.requests
        errors = [
            (record.finish - record.predicted) / (record.predicted - requests[record.index].release)
            for record in self.records
            if record.finish is not None and record.predicted is not None
        ]
        if not errors:
            return {}
        return {
            "prediction_bias": statistics.fmean(errors),
            "prediction_error": statistics.fmean(abs(error) for error in errors),
        }

    def _by_tenants(self) -> dict[str, float]:
        """The attainment of tenant-0, which may flood, and of the others; nothing where there is one tenant."""
        tenants = frozenset(request.tenant for request in self.instance.requests)
        flooder = frozenset({"tenant-0"})
        if len(tenants) < 2 or not flooder < tenants:
            return {}
        return {
            "attainment_tenant_0": self.attainment_of(flooder),
            "attainment_others": self.attainment_of(tenants - flooder),
        }

    def _asked(self, records: Sequence[Record], granted: bool = False) -> int:
        requests = self.instance.requests
        return sum(
            requests[each.index].images * (each.evaluations if granted else requests[each.index].evaluations)
            for each in records
        )

    def _goodput(self) -> float:
        """Images a second that were on time, over the time of arrivals after its first tenth; of a burst alone, until its last finish."""
        requests = self.instance.requests
        on_time = [
            (record.finish, requests[record.index].images)
            for record in self.records
            if record.on_time and record.finish is not None
        ]
        if not on_time:
            return 0.0
        begin, end = requests[0].release, requests[-1].release
        if begin == end:
            end = max(finish for finish, _ in on_time)
        else:
            begin += _WARM_UP * (end - begin)
        return sum(images for finish, images in on_time if begin < finish <= end) / (end - begin)


def share(part: float, whole: float) -> float:
    """part / whole; 1 of nothing."""
    return part / whole if whole else 1.0


def quantile(ascending: Sequence[float], at: float) -> float:
    """By linear interpolation; NaN of nothing."""
    if not ascending:
        return float("nan")
    if len(ascending) == 1:
        return ascending[0]
    return statistics.quantiles(ascending, n=1000, method="inclusive")[round(at * 1000) - 1]
