"""A virtual worker alone, and the rule of `Membership` carried out boundary by boundary to compare it with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from collodion.wire.jobs import LatentId, Parameters
from collodion.wire.to_scheduler import WorkerReport, WorkerState
from collodion.wire.to_worker import JobOrder, Membership
from simulation.agenda import Agenda
from simulation.instance import Device, KeyCosts
from simulation.recorder import Recorder
from simulation.truth import Truth
from simulation.worker import VirtualWorker

# Powers of two: sums of them are exact, so that times can be compared with ==.
COSTS = {
    "m/64x64": KeyCosts(encode=(1.0, 1.5), step=(0.125, 0.1875, 0.25), decode=(0.5, 0.75)),
    "m/128x128": KeyCosts(encode=(1.25, 1.5), step=(0.25, 0.5, 0.75), decode=(1.0, 1.5)),
}
DEVICE = Device("device", "kind", COSTS, max_batch=3, encode_batch=2, decode_batch=2)

Batch = tuple[str, float, float, tuple[str, ...]]
"""Lane, start, end, latents."""


def order(job: str, steps: int, size: int = 64) -> JobOrder:
    parameters = Parameters(
        model="m",
        prompt="",
        negative_prompt="",
        width=size,
        height=size,
        steps=steps,
        sampler="ddim",
        guidance_scale=1.0,
        seed=0,
        images=1,
    )
    return JobOrder(job, parameters)


def names(*texts: str) -> tuple[LatentId, ...]:
    return tuple(LatentId(text.partition("/")[0], int(text.partition("/")[2] or 0)) for text in texts)


def membership(
    number: int,
    running: Sequence[str],
    orders: Sequence[JobOrder] = (),
    caps: Sequence[int] = (),
    parked: Sequence[str] = (),
    after: tuple[str, int] | None = None,
) -> Membership:
    return Membership(
        scheduler="scheduler",
        worker="worker-0",
        number=number,
        running=names(*running),
        caps=tuple(caps),
        parked=names(*parked),
        after=(names(after[0])[0], after[1]) if after else None,
        orders=tuple(orders),
    )


class Bench:
    """The worker and its clock; `said` is what it said, with when."""

    def __init__(self, device: Device = DEVICE, store_s: float = 0.0) -> None:
        self.agenda = Agenda()
        self.recorder = Recorder(keeps=True)
        self.said: list[tuple[float, Any]] = []
        truth = Truth(device, 0.0, 0.0, "")
        self.worker = VirtualWorker(0, device, (), truth, self.agenda, self.recorder, self._hear, store_s)

    def tell(self, when: float, message: Membership) -> None:
        self.agenda.at(when, self.worker.hear, message)

    def run(self) -> None:
        while self.agenda.next() is not None:
            self.agenda.step()

    def batches(self) -> list[Batch]:
        """What ran, evaluation by evaluation."""
        ran: list[Batch] = []
        for segment in self.recorder.segments:
            parts = max(1, segment.evaluations)
            each = (segment.end - segment.start) / parts
            ran += [
                (
                    segment.lane,
                    segment.start + each * part,
                    segment.start + each * (part + 1),
                    tuple(str(latent) for latent in segment.latents),
                )
                for part in range(parts)
            ]
        return ran

    def reports(self) -> list[tuple[float, dict[str, tuple[str, int]]]]:
        """When it reported, and of each latent stage and evaluations."""
        return [
            (when, {str(each.id): (each.stage.value, each.evaluations) for each in message.latents})
            for when, message in self.said
            if isinstance(message, WorkerReport)
        ]

    def states(self) -> list[WorkerState]:
        return [message for _, message in self.said if isinstance(message, WorkerState)]

    def _hear(self, worker: VirtualWorker, message: Any) -> None:
        self.said.append((self.agenda.now, message))


@dataclass
class _Held:
    job: str
    key: str
    total: int
    done: int = 0
    decoded: bool = False


@dataclass
class Plodder:
    """The rule, one evaluation at a time; as slow and as plain as can be."""

    device: Device
    arrivals: list[tuple[float, Membership]]
    now: float = 0.0
    held: dict[LatentId, _Held] = field(default_factory=dict)
    running: list[LatentId] = field(default_factory=list)
    caps: tuple[int, ...] = ()
    encoded: set[str] = field(default_factory=set)
    finished: list[LatentId] = field(default_factory=list)
    pending: list[Membership] = field(default_factory=list)
    ran: list[Batch] = field(default_factory=list)

    def run(self) -> list[Batch]:
        while True:
            self._apply()
            if not self._round():
                if not self.arrivals:
                    return self.ran
                self.now = max(self.now, self.arrivals[0][0])

    def _apply(self) -> None:
        while self.arrivals and self.arrivals[0][0] <= self.now:
            arrived = self.arrivals.pop(0)[1]
            self.pending = [*(self.pending if arrived.after else []), arrived]
        while self.pending and (self._reached(self.pending[0].after) or not (self.finished or self._window())):
            self._hold(self.pending.pop(0))

    def _hold(self, newest: Membership) -> None:
        orders = {order.job: order.parameters for order in newest.orders}
        before, self.held = self.held, {}
        for name in (*newest.running, *newest.parked):
            asked = orders[name.job]
            self.held[name] = before.get(name) or _Held(name.job, asked.batch_key, asked.steps)
        self.encoded &= {each.job for each in self.held.values()}
        self.running, self.caps = list(newest.running), newest.caps
        self.finished = [name for name in self.finished if self.held.get(name) is before.get(name)]

    def _reached(self, after: tuple[LatentId, int] | None) -> bool:
        latent = self.held.get(after[0]) if after else None
        if after is None or latent is None or latent.done >= after[1]:
            return True
        return latent.done == latent.total and after[0] not in self.finished

    def _round(self) -> bool:
        decoding = self._to_decode()
        window = self._window()
        if decoding:
            costs = self.device.costs[self.held[decoding[0]].key]
            self._batch("decode", costs.decode[len(decoding) - 1], decoding)
        jobs = list(dict.fromkeys(name.job for name in window if name.job not in self.encoded))
        jobs = jobs[: self.device.encode_batch]
        if jobs:
            costs = self.device.costs[self.held[window[0]].key]
            self._batch("encode", costs.encode[len(jobs) - 1], [name for name in window if name.job in jobs])
            self.encoded |= set(jobs)
        rows = [name for name in window if name.job in self.encoded]
        if rows:
            costs = self.device.costs[self.held[rows[0]].key]
            self._batch("step", costs.step[len(rows) - 1], rows)
            for name in rows:
                self.held[name].done += 1
                if self.held[name].done == self.held[name].total:
                    self.finished.append(name)
        return bool(decoding or rows)

    def _to_decode(self) -> list[LatentId]:
        if not self.finished:
            return []
        key = self.held[self.finished[0]].key
        batch = [name for name in self.finished if self.held[name].key == key][: self.device.decode_batch]
        self.finished = [name for name in self.finished if name not in batch]
        return batch

    def _window(self) -> list[LatentId]:
        for place, leader in enumerate(self.running):
            if self.held[leader].done < self.held[leader].total:
                key = self.held[leader].key
                within = [
                    name
                    for name in self.running[place:]
                    if self.held[name].done < self.held[name].total and self.held[name].key == key
                ]
                most = min(self.device.max_batch, self.caps[place]) if self.caps else self.device.max_batch
                return within[:most]
        return []

    def _batch(self, lane: str, seconds: float, latents: list[LatentId]) -> None:
        self.ran.append((lane, self.now, self.now + seconds, tuple(str(name) for name in latents)))
        self.now += seconds
