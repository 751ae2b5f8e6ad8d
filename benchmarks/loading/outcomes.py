"""What a run came to: the figures that a simulation has, and those that only a real client can have.

Closed loop: a request's release is the moment at which it was sent, and its deadline follows it.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from loading.asking import Reply
from loading.cells import Cell
from loading.costs import Batch
from simulation.instance import Device, Instance
from simulation.ledger import Record
from simulation.result import Result, quantile, share
from simulation.truth import STEP, STORE


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one contender in one cell; `replayed`: in simulation, what the run with this label and number was asked for."""

    label: str
    cell: Cell
    seed: int
    repeat: int
    figures: dict[str, float]
    records: tuple[Record, ...]
    replayed: bool = False


def instance_of(replies: Sequence[Reply], devices: tuple[Device, ...], closed: bool) -> Instance:
    """What was asked for, as it was sent."""
    return Instance(
        tuple(
            dataclasses.replace(each.request, release=each.sent, deadline=each.sent + _slo(each))
            if closed
            else each.request
            for each in replies
        ),
        devices,
    )


def result_of(label: str, instance: Instance, replies: Sequence[Reply], batches: Sequence[Batch]) -> Result:
    """A real run in the simulator's words. Replies are in the order of the instance's requests."""
    records = tuple(dataclasses.replace(reply.record, index=index) for index, reply in enumerate(replies))
    steps = [batch for batch in batches if batch.lane == STEP]
    return Result(
        policy=label,
        instance=instance,
        records=records,
        evaluations=sum(batch.size for batch in steps),
        step_batches=len(steps),
        busy_s=sum(batch.seconds for batch in batches if batch.lane != STORE),
        ended_s=max((record.finish for record in records if record.finish is not None), default=0.0),
        wall_s=0.0,
        handlings={},
        in_system=(),
    )


def figures_of(result: Result) -> dict[str, float]:
    """Those of any run, real or simulated. Times are seconds."""
    finished = [record for record in result.records if record.finish is not None]
    requests = result.instance.requests
    images = sum(requests[record.index].images for record in finished)
    span_s = max((record.finish or 0.0 for record in finished), default=0.0) - (
        requests[0].release if requests else 0.0
    )
    kept = result.figures()
    for meaningless in ("wall_s", "evaluations_per_wall_s", "events", "cpu_per_event"):
        del kept[meaningless]
    latencies = [record.finish - requests[record.index].release for record in finished if record.finish is not None]
    return kept | {
        "images_per_s": images / span_s if span_s > 0 else 0.0,
        "latency_mean": statistics.fmean(latencies) if latencies else math.nan,
    }


def answers_of(instance: Instance, replies: Sequence[Reply]) -> dict[str, float]:
    """How soon requests were answered, and how many were told what they need to know: a predicted finish, or an offer."""
    answers = sorted(reply.answer_s for reply in replies if reply.answer_s is not None)
    told = sum(reply.offers or reply.record.predicted is not None for reply in replies)
    return {
        "answer_p50": quantile(answers, 0.5),
        "answer_p99": quantile(answers, 0.99),
        "answer_max": max(answers, default=float("nan")),
        "unanswered": len(replies) - len(answers),
        "accepted": sum(bool(reply.record.job) for reply in replies),
        "told": share(told, len(replies)),
        "send_lag_max": max(
            (reply.sent - request.release for reply, request in zip(replies, instance.requests, strict=True)),
            default=0.0,
        ),
    }


def _slo(reply: Reply) -> float:
    return reply.request.deadline - reply.request.release
