"""A simulated world in which clients cancel, hang up and come back, workers die, and messages take their time.

1. The workers keep to the rule exactly, and their costs are known: what is promised then has to be kept.
2. A storm is drawn from a seed and is data, so that one that shows a defect can be shortened.
3. After every event the core's records are audited, and every promise is noted. What excuses a broken one is noted, too: its client
   cancelled it or hung up, or a worker died that had it in its line.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from scheduler_audit import audit

from collodion.scheduler.config import SchedulerConfig
from collodion.scheduler.core import Core
from collodion.scheduler.events import Event, FrontendSaid, TellFrontend, TellWorker, WorkerSaid
from collodion.scheduler.job import Job
from collodion.scheduler.slack import Slack
from collodion.wire.jobs import DeadlinePolicy, JobSpec
from collodion.wire.to_frontend import Accepted, Ended, JobAnswer, JobEvent, JobView, Refused, Warned
from collodion.wire.to_scheduler import CancelJob, FrontendBeat, LeaveJob, SubmitJob, WatchJob
from collodion.wire.to_worker import Membership, ResidencyWish
from simulation.instance import Device, Instance, Request
from simulation.models import parameters_of
from simulation.worker import VirtualWorker
from simulation.world import ORIGIN, Conditions, World

_FRONTEND = b"frontend"
_COMING_BACK, _CANCELLING = 100_000, 200_000  # numbers of calls
CLOCK_S = 1e-6
"""Sums of floats at the core's times."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `watched`: its client watches it, and may hang up."""

    request: Request
    policy: DeadlinePolicy = DeadlinePolicy.REFUSE
    min_steps: int = 1
    watched: bool = False
    slo_given: bool = True


@dataclass(frozen=True, slots=True)
class Happening:
    """At `when`: `cancel`, `leave` or `come_back` for the request `index`, or `death` of the worker `index`."""

    when: float
    what: str
    index: int


@dataclass(frozen=True, slots=True)
class Storm:
    """All that happens. Messages take `delay_s`, drawn anew for each between the two, in both directions."""

    devices: tuple[Device, ...]
    asks: tuple[Ask, ...]
    happenings: tuple[Happening, ...] = ()
    delay_s: tuple[float, float] = (0.0005, 0.0005)
    store_s: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def instance(self) -> Instance:
        """As the simulator knows it."""
        return Instance(tuple(ask.request for ask in self.asks), self.devices)

    def config(self) -> SchedulerConfig:
        """The scheduler's settings."""
        return SchedulerConfig(**{"tiers": ("interactive=3x@4", "standard=8x@2", "batch=none"), **self.settings})


@dataclass(slots=True)
class Fate:
    """What became of a request, as its client and an onlooker saw it."""

    job: str = ""
    promised_at: float | None = None
    predicted: float | None = None
    excused: str = ""
    view: JobView | None = None
    refused: Refused | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        """Whether a promise was given, and not kept without an excuse."""
        return self.promised_at is not None and not self.excused and self.late_s > CLOCK_S

    @property
    def late_s(self) -> float:
        """By how much its end is past its deadline."""
        assert self.view is not None
        assert self.view.ended is not None
        return self.view.ended - (self.view.deadline or float("inf"))


class StormyWorld(World):
    """One storm; `run` it once."""

    def __init__(self, storm: Storm, timeline: bool = False) -> None:
        conditions = Conditions(drain=True, store_s=storm.store_s, delay_s=storm.delay_s[0], timeline=timeline)
        super().__init__(storm.instance, storm.config(), conditions, lambda _: None)
        self.storm = storm
        self.fates = [Fate() for _ in storm.asks]
        self.dead: set[bytes] = set()
        self.watching: dict[int, str] = {}
        self.listeners: list[Callable[[Event], None]] = []
        self._chance = random.Random(0)
        self._last: dict[tuple[bytes, bool], float] = {}
        for happening in storm.happenings:
            self._agenda.at(ORIGIN + happening.when, self._happen, happening)

    @property
    def core(self) -> Core:
        """To look at."""
        return self._core

    @property
    def policy(self) -> Slack:
        """The core's."""
        policy = self._core.dispatch._policy
        assert isinstance(policy, Slack)
        return policy

    # ------------------------------------------------------------ what happens

    def _happen(self, what: Happening) -> None:
        getattr(self, what.what)(what.index)

    def cancel(self, index: int) -> None:
        """The client cancels, if its job was not refused."""
        if job := self.fates[index].job:
            self._excuse(index, "cancelled")
            call = _CANCELLING + index
            self._handle("cancel", FrontendSaid(_FRONTEND, CancelJob(call, self._request(index).tenant, job)))

    def leave(self, index: int) -> None:
        """The client hangs up, if it watches still."""
        if index in self.watching:
            self._excuse(index, "left")
            del self.watching[index]
            self._handle("leave", FrontendSaid(_FRONTEND, LeaveJob(index)))

    def come_back(self, index: int) -> None:
        """A client that hung up watches again."""
        call, job = _COMING_BACK + index, self.fates[index].job
        if self.storm.asks[index].watched and job and index not in self.watching and call not in self.watching:
            self.watching[call] = job
            watch = WatchJob(call, self._request(index).tenant, job)
            self._handle("come_back", FrontendSaid(_FRONTEND, watch))

    def death(self, index: int) -> None:
        """The worker is heard no more, and hears nothing."""
        self.dead.add(list(self._workers)[index])
        self._note_deaths()

    def _note_deaths(self) -> None:
        for job in self._core.book.live.values():
            if any(not self.dead.isdisjoint((latent.worker, latent.planned)) for latent in job.latents):
                self._excuse(_index(job), "its worker died")

    def _excuse(self, index: int, why: str) -> None:
        self.fates[index].excused = why

    def _request(self, index: int) -> Request:
        return self.storm.asks[index].request

    # ------------------------------------------------------------ the core

    def _handle(self, kind: str, event: Event) -> None:
        super()._handle(kind, event)
        audit(self._core)
        for job in self._core.book.live.values():
            fate = self.fates[_index(job)]
            fate.job = job.id
            if job.promised and fate.promised_at is None:
                fate.promised_at = self.now
                fate.predicted = self.policy.finish(job)
        self._note_deaths()
        for listener in self.listeners:
            listener(event)

    def _carry_out(self, commands: list[Any]) -> list[str]:
        for command in commands:
            view = getattr(command, "view", None)
            if isinstance(view, JobView) and view.ended is not None:
                self.fates[int(view.spec.labels["request"])].view = view
        return super()._carry_out(commands)

    # ------------------------------------------------------------ workers

    def _worker_beat(self, worker: VirtualWorker) -> None:
        if worker.peer not in self.dead:
            super()._worker_beat(worker)

    def _from_worker(self, worker: VirtualWorker, message: Any) -> None:
        if worker.peer not in self.dead:
            self._agenda.at(self._arrival(worker.peer, up=True), self._hear, WorkerSaid(worker.peer, message))

    def _to_worker(self, command: TellWorker) -> None:
        if isinstance(command.message, Membership | ResidencyWish) and command.peer not in self.dead:
            hear = self._workers[command.peer].hear
            self._agenda.at(self._arrival(command.peer, up=False), hear, command.message)

    def _hear(self, event: WorkerSaid) -> None:
        if event.peer not in self.dead:
            super()._hear(event)

    def _arrival(self, peer: bytes, up: bool) -> float:
        when = max(self._last.get((peer, up), 0.0), self.now + self._chance.uniform(*self.storm.delay_s))
        self._last[peer, up] = when
        return when

    # ------------------------------------------------------------ the frontend

    def _frontend_beat(self, _: None = None) -> None:
        self._handle("FrontendBeat", FrontendSaid(_FRONTEND, FrontendBeat("frontend", dict(self.watching))))
        self._agenda.at(self._agenda.now + self._conditions.beat_s, self._frontend_beat)

    def spec(self, index: int) -> JobSpec:
        """What the client of a request asks for."""
        ask = self.storm.asks[index]
        request = ask.request
        return JobSpec(
            parameters=parameters_of(request, seed=index),
            tenant=request.tenant,
            tier=request.tier,
            slo_s=request.slo_s if ask.slo_given else None,
            deadline_policy=ask.policy,
            min_steps=min(ask.min_steps, request.evaluations),
            labels={"request": str(index)},
        )

    def _submit(self, index: int) -> None:
        watched = self.storm.asks[index].watched
        if watched:
            self.watching[index] = ""
        self._handle("SubmitJob", FrontendSaid(_FRONTEND, SubmitJob(index, self.spec(index), watch=watched)))
        self._await_next_request()

    def _to_frontend(self, command: TellFrontend) -> None:
        message = command.message
        if isinstance(message, Refused):
            self.watching.pop(message.call, None)
            if message.call < _COMING_BACK:
                self.fates[message.call].refused = message
                self.ledger.refused(message)
        elif isinstance(message, JobAnswer) and message.call < _COMING_BACK:
            self.ledger.answered(message)
        elif isinstance(message, JobEvent):
            self._event(message)

    def _event(self, message: JobEvent) -> None:
        for call in message.calls:
            if call not in self.watching:
                continue
            fate = self.fates[call % _COMING_BACK]
            if isinstance(message.event, Accepted):
                self.watching[call] = message.job
            elif isinstance(message.event, Warned):
                fate.warnings.append(message.event.reason)
            elif isinstance(message.event, Ended):
                del self.watching[call]


def weather(storm: Storm) -> StormyWorld:
    """The storm, run to its end: every request has its outcome."""
    world = StormyWorld(storm)
    world.run()
    return world


def _index(job: Job) -> int:
    return int(job.spec.labels["request"])
