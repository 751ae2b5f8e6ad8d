"""The scheduler core, its clock, its workers and its frontend: one simulation.

1. Messages take `delay_s` each way. Whatever the core persists is persisted at once.
2. It ends when every request has an outcome, or when all deadlines have passed and nothing without a deadline is open. With `drain` it
   goes on until all have an outcome.
3. The core's clock is `ORIGIN` ahead of the instance's, so that its times are those of a running server: never zero.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from collodion.scheduler.config import SchedulerConfig
from collodion.scheduler.core import Core
from collodion.scheduler.events import (
    Command,
    Event,
    FrontendSaid,
    Persist,
    Persisted,
    TellFrontend,
    TellWorker,
    Ticked,
    WorkerSaid,
)
from collodion.scheduler.ids import JobIds
from collodion.wire.jobs import DeadlinePolicy, JobSpec
from collodion.wire.to_frontend import JobAnswer, Refused
from collodion.wire.to_scheduler import FromWorker, FrontendBeat, SubmitJob
from collodion.wire.to_worker import Membership, ResidencyWish
from simulation.agenda import Agenda
from simulation.instance import Instance
from simulation.ledger import Ledger
from simulation.meter import Meter
from simulation.models import models_of, parameters_of
from simulation.priming import prime
from simulation.queues import Queues
from simulation.recorder import Recorder
from simulation.truth import Truth
from simulation.worker import VirtualWorker

ORIGIN = 10.0
_HEAD_START_S = 1.0  # the workers are known before the first request comes
_FRONTEND = b"frontend"
_STALLED_S = 1000.0
_TICKS_AT_ONCE = 1000


class Stalled(AssertionError):
    """Jobs are open and nothing happens: the scheduler has forgotten them, or turns in circles."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What surrounds the core. `noise` and `bias` are of batch costs (see `truth`); `primed`: it knows the profile from the start."""

    seed: int = 1
    noise: float = 0.0
    bias: float = 0.0
    delay_s: float = 0.0005
    store_s: float = 0.0
    beat_s: float = 1.0
    primed: bool = True
    drain: bool = False
    deadline_policy: DeadlinePolicy = DeadlinePolicy.REFUSE
    min_steps: int = 1
    timeline: bool = False


class World:
    """One simulation; `run` it once. `on_decided` hears how many requests have an outcome, whenever that changes."""

    def __init__(
        self,
        instance: Instance,
        config: SchedulerConfig,
        conditions: Conditions,
        on_decided: Callable[[int], None],
    ) -> None:
        self._instance = instance
        self._conditions = conditions
        self._on_decided = on_decided
        self._agenda = Agenda()
        self._agenda.now = started = ORIGIN - _HEAD_START_S
        ids = JobIds(random.Random(conditions.seed).getrandbits)
        self._core = Core(config, "simulated", ids, started)
        self.meter = Meter()
        self.ledger = Ledger(instance, ORIGIN)
        self.recorder = Recorder(conditions.timeline)
        self.queues = Queues()
        self._submitted = 0
        self._wake = self._core.next_wake()
        self._heard_last = started
        self._workers = self._made_workers()
        if conditions.primed:
            prime(self._core, instance.devices, conditions.store_s)

    @property
    def now(self) -> float:
        """The core's time."""
        return self._agenda.now

    def run(self) -> None:
        """From the first worker's first beat to the end."""
        self._frontend_beat()
        for index, worker in enumerate(self._workers.values()):
            worker.beat()
            phase = (index + 1) / len(self._workers)
            self._agenda.at(self._agenda.now + phase * self._conditions.beat_s, self._worker_beat, worker)
        self._await_next_request()
        horizon = self._horizon()
        while self.ledger.decided < len(self.ledger.records):
            if self._agenda.now > horizon and not self.ledger.waits_for_undated and not self._conditions.drain:
                break
            self._next()

    # ------------------------------------------------------------------ time

    def _next(self) -> None:
        due = self._agenda.next()
        assert due is not None, "the beats never end"
        if self._wake <= due:
            self._tick()
        else:
            self._agenda.step()
        if self._agenda.now - self._heard_last > _STALLED_S and self._submitted == len(self._instance.requests):
            raise Stalled(f"{len(self.ledger.records) - self.ledger.decided} jobs are open and no worker does anything")

    def _tick(self) -> None:
        self._agenda.now = max(self._agenda.now, self._wake)
        for _ in range(_TICKS_AT_ONCE):
            self._handle("tick", Ticked())
            if self._wake > self._agenda.now:
                return
        raise Stalled("the core wants to be woken again and again at one moment")

    def _horizon(self) -> float:
        dated = [each.deadline for each in self._instance.requests if each.slo_s is not None]
        return ORIGIN + max(dated, default=0.0) + 2 * self._conditions.delay_s

    # ------------------------------------------------------------------ the core

    def _handle(self, kind: str, event: Event) -> None:
        now = self._agenda.now
        commands, self._wake = self.meter.measure(kind, lambda: (self._core.handle(event, now), self._core.next_wake()))
        persisted = self._carry_out(commands)
        if persisted:
            self._handle("persisted", Persisted(tuple(persisted)))

    def _carry_out(self, commands: list[Command]) -> list[str]:
        persisted = []
        decided = self.ledger.decided
        for command in commands:
            if isinstance(command, TellWorker):
                self._to_worker(command)
            elif isinstance(command, TellFrontend):
                self._to_frontend(command)
            elif isinstance(command, Persist):
                index = int(command.view.spec.labels["request"])
                if command.view.ended is None:
                    persisted.append(command.view.job)
                else:
                    self.ledger.ended(index, command.view)
                    self.queues.left(self._agenda.now - ORIGIN, index)
        if self.ledger.decided != decided:
            self._on_decided(self.ledger.decided)
        return persisted

    # ------------------------------------------------------------------ workers

    def _made_workers(self) -> dict[bytes, VirtualWorker]:
        conditions, models = self._conditions, models_of(self._instance)
        workers = [
            VirtualWorker(
                index,
                device,
                models,
                Truth(device, conditions.bias, conditions.noise, f"{conditions.seed}/{index}"),
                self._agenda,
                self.recorder,
                self._from_worker,
                conditions.store_s,
            )
            for index, device in enumerate(self._instance.devices)
        ]
        return {worker.peer: worker for worker in workers}

    def _worker_beat(self, worker: VirtualWorker) -> None:
        worker.beat()
        self._agenda.at(self._agenda.now + self._conditions.beat_s, self._worker_beat, worker)

    def _from_worker(self, worker: VirtualWorker, message: FromWorker) -> None:
        self._agenda.at(self._agenda.now + self._conditions.delay_s, self._hear, WorkerSaid(worker.peer, message))

    def _hear(self, event: WorkerSaid) -> None:
        kind = type(event.message).__name__
        if kind == "WorkerReport":
            self._heard_last = self._agenda.now
        self._handle(kind, event)

    def _to_worker(self, command: TellWorker) -> None:
        if isinstance(command.message, Membership | ResidencyWish):
            hear = self._workers[command.peer].hear
            self._agenda.at(self._agenda.now + self._conditions.delay_s, hear, command.message)

    # ------------------------------------------------------------------ the frontend

    def _frontend_beat(self, _: None = None) -> None:
        self._handle("FrontendBeat", FrontendSaid(_FRONTEND, FrontendBeat("frontend", {})))
        self._agenda.at(self._agenda.now + self._conditions.beat_s, self._frontend_beat)

    def _await_next_request(self) -> None:
        if self._submitted < len(self._instance.requests):
            release = self._instance.requests[self._submitted].release
            self._agenda.at(ORIGIN + release + self._conditions.delay_s, self._submit, self._submitted)
            self._submitted += 1

    def _submit(self, index: int) -> None:
        request = self._instance.requests[index]
        conditions = self._conditions
        spec = JobSpec(
            parameters=parameters_of(request, seed=index),
            tenant=request.tenant,
            tier=request.tier,
            slo_s=request.slo_s,
            deadline_policy=conditions.deadline_policy,
            min_steps=min(conditions.min_steps, request.evaluations),
            labels={"request": str(index)},
        )
        self.queues.came(self._agenda.now - ORIGIN, index)
        self._handle("SubmitJob", FrontendSaid(_FRONTEND, SubmitJob(index, spec, watch=False)))
        self._await_next_request()

    def _to_frontend(self, command: TellFrontend) -> None:
        message = command.message
        if isinstance(message, JobAnswer):
            self.ledger.answered(message)
        elif isinstance(message, Refused):
            self.ledger.refused(message)
            self.queues.left(self._agenda.now - ORIGIN, message.call)
