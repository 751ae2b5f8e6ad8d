"""The real scheduler core under a load that stays as it is, with the CPU time that each event cost it.

1. Workers, clock and costs are the simulator's. Real workers report their progress with every step; these do too.
2. The load is closed: when a job ends, another one of its kind is submitted, so that as many wait at the end as at the beginning.
3. Every job is watched, as in a server: progress is told, and the frontend's beat names every call.
4. Promised jobs are put into the workers' lines at the start, all at once, past the door: one by one would take minutes.
"""

import gc
import random
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

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
from collodion.scheduler.job import Job
from collodion.scheduler.planner import Planner, Trial
from collodion.scheduler.plans import WorkerPlan, place
from collodion.scheduler.slack import Slack
from collodion.wire.jobs import DeadlinePolicy, JobSpec, Stage
from collodion.wire.to_frontend import Accepted, Ended, JobEvent, Refused
from collodion.wire.to_scheduler import CancelJob, FromFrontend, FromWorker, FrontendBeat, SubmitJob, WorkerReport
from collodion.wire.to_worker import Membership
from simulation.agenda import Agenda
from simulation.fleets import Bounds, make_fleet
from simulation.instance import Instance, Request
from simulation.models import models_of, parameters_of
from simulation.priming import prime
from simulation.profiles import Profile
from simulation.recorder import Recorder
from simulation.truth import Truth
from simulation.worker import VirtualWorker

KEY = "sd15/512x512"
STEPS = (10, 50)
REPORT_S = 0.15  # about one a step of a full batch
DELAY_S = 0.0005
_BEAT_S = 1.0
_START = 1000.0
_SETTLING_S = 3.0  # the first reports correct the costs, and with them every plan
_LONG_SLO_S = 3000.0
_FRONTEND = b"frontend"
_UNBOUNDED = 1_000_000


class Load(StrEnum):
    """What the waiting latents are."""

    BEST_EFFORT = "best effort"
    PROMISED = "promised"
    MIX = "mix"


@dataclass(frozen=True, slots=True)
class State:
    """So many latents wait, beside those that run, for so many workers."""

    waiting: int
    workers: int
    load: Load


class TellingWorker(VirtualWorker):
    """A virtual worker that also says its progress when asked."""

    def tell(self) -> None:
        """Reports what is new."""
        self._report()


class LoadedCore:
    """A core in a state, and the means to let time pass. `cpu_s` has the seconds of every call, by kind of event."""

    def __init__(self, state: State, profile: Profile, seed: int = 1) -> None:
        self.cpu_s: dict[str, array[float]] = {}
        self._random = random.Random(seed)
        self._agenda = Agenda()
        self._agenda.now = _START
        config = SchedulerConfig(
            max_jobs=_UNBOUNDED,
            max_jobs_per_tenant=_UNBOUNDED,
            max_queue_s=_UNBOUNDED,
            max_queue_s_per_tenant=_UNBOUNDED,
        )
        self.core = Core(config, "measured", JobIds(self._random.getrandbits), _START)
        devices = make_fleet((profile,), (state.workers,), (KEY,), Bounds())
        prime(self.core, devices, 0.0)
        models = models_of(Instance((), devices))
        self._workers = {
            worker.peer: worker
            for worker in (
                TellingWorker(
                    index,
                    device,
                    models,
                    Truth(device, 0.0, 0.0, "truth"),
                    self._agenda,
                    Recorder(False),
                    self._from_worker,
                )
                for index, device in enumerate(devices)
            )
        }
        self._cap = devices[0].max_batch
        self._calls = 0
        self._watching: dict[int, str] = {}
        self._promised_calls: set[int] = set()
        self.keeps_load = True
        self.answers: dict[int, object] = {}
        self._begin()
        self._fill(state)

    @property
    def now(self) -> float:
        """The core's time."""
        return self._agenda.now

    # -------------------------------------------------------------- time

    def run(self, seconds: float, on_time: Callable[[float], None] = lambda _: None) -> None:
        """Lets so much time pass; `on_time` hears how much of it has."""
        began = self.now
        end = began + seconds
        while True:
            due = self._agenda.next()
            wake = self.core.next_wake()
            if min(wake, due if due is not None else wake) > end:
                self._agenda.now = end
                return
            if due is None or wake <= due:
                self._agenda.now = max(self.now, wake)
                self.handle("tick", Ticked())
            else:
                self._agenda.step()
            on_time(self.now - began)

    def handle(self, kind: str, event: Event) -> list[Command]:
        """The core's commands, carried out; notes what it took."""
        now = self.now
        began = time.process_time_ns()
        commands = self.core.handle(event, now)
        handled = time.process_time_ns()
        self.core.next_wake()
        woken = time.process_time_ns()
        decided = any(
            isinstance(command, TellWorker) and isinstance(command.message, Membership) for command in commands
        )
        self.note(f"{kind}, decided" if decided else kind, (handled - began) / 1e9)
        self.note("next_wake", (woken - handled) / 1e9)
        persisted = self._carry_out(commands)
        if persisted:
            self.handle("persisted", Persisted(tuple(persisted)))
        return commands

    def note(self, kind: str, seconds: float) -> None:
        """A sample of CPU time."""
        self.cpu_s.setdefault(kind, array("d")).append(seconds)

    # -------------------------------------------------------------- jobs

    def submit(self, kind: str, slo_s: float | None, policy: DeadlinePolicy = DeadlinePolicy.BEST_EFFORT) -> int:
        """One job of one image; its call."""
        self._calls += 1
        steps = self._random.randint(*STEPS)
        request = Request(0.0, 0.0, KEY, steps)
        spec = JobSpec(
            parameters=parameters_of(request, seed=self._calls),
            tenant="tenant-0",
            tier="standard" if slo_s is not None else "batch",
            slo_s=slo_s,
            deadline_policy=policy,
            labels={"request": str(self._calls)},
        )
        call = self._calls
        self._watching[call] = ""
        if slo_s is not None:
            self._promised_calls.add(call)
        self.handle(kind, self._said(SubmitJob(call, spec, watch=True)))
        return call

    def cancel(self, call: int) -> None:
        """The job of this call is wanted no longer; no other one comes for it."""
        job = self._watching.get(call)
        if job:
            self._calls += 1
            keeps, self.keeps_load = self.keeps_load, False
            self.handle("cancel", self._said(CancelJob(self._calls, "tenant-0", job)))
            self.keeps_load = keeps

    def lines(self) -> list[int]:
        """How many promised latents each worker's line has."""
        return [len(plan.promised) for plan in self._planner.plans.values()]

    def promise_waiting(self, share: float, most: int = _UNBOUNDED) -> None:
        """Puts this share of what waits into the workers' lines, each up to `most` promised latents (rule 4)."""
        planner = self._planner
        backlog = self.core.dispatch.backlog
        jobs = [job for job in self.core.book.live.values() if job.latents[0].ticket and job.acknowledged]
        chosen = jobs[: round(share * len(jobs))]
        plans = [planner.plan(worker, self.now) for worker in self.core.fleet.workers.values()]
        dealt: dict[bytes, list[Job]] = {plan.worker.peer: [] for plan in plans}
        for index, job in enumerate(chosen):
            plan = plans[index % len(plans)]
            if len(plan.promised) + len(dealt[plan.worker.peer]) < most:
                dealt[plan.worker.peer].append(job)
        for plan in plans:
            for job in dealt[plan.worker.peer]:
                job.promised, job.deadline = True, self.now + _LONG_SLO_S * (1.0 + self._random.random())
                backlog.remove(job.latents[0])
            self._line_up(plan, dealt[plan.worker.peer])

    def _line_up(self, plan: WorkerPlan, jobs: list[Job]) -> None:
        planner = self._planner
        tasks = tuple(planner.task(plan, job.latents[0], promised=True) for job in jobs)
        line = tuple(sorted((*plan.position.order, *tasks), key=place))
        play = plan.predicted(line, only_if_kept=False)
        assert play is not None
        planner.commit((Trial(plan, line, play, tasks),))
        self.core.dispatch.concern(plan.worker)

    @property
    def _planner(self) -> Planner:
        policy = self.core.dispatch._policy
        assert isinstance(policy, Slack)
        return policy.planner

    # -------------------------------------------------------------- at the start

    def _begin(self) -> None:
        self._frontend_beat()
        for index, worker in enumerate(self._workers.values()):
            worker.beat()
            phase = (index + 1) / len(self._workers)
            self._agenda.at(self.now + phase * _BEAT_S, self._worker_beat, worker)
            self._agenda.at(self.now + phase * REPORT_S, self._worker_tells, worker)
        self.run(2 * DELAY_S)

    def _fill(self, state: State) -> None:
        for _ in range(state.waiting + state.workers * self._cap):
            self.submit("fill", None)
        self.run(0.1)
        share = {Load.BEST_EFFORT: 0.0, Load.PROMISED: 1.0, Load.MIX: 0.5}[state.load]
        if share:
            self.promise_waiting(share)
        self._promised_calls.update(
            number for number, name in self._watching.items() if (job := self.core.book.live.get(name)) and job.promised
        )
        self.run(_SETTLING_S)
        self.cpu_s.clear()
        gc.collect()

    # -------------------------------------------------------------- peers

    def _worker_beat(self, worker: TellingWorker) -> None:
        worker.beat()
        self._agenda.at(self.now + _BEAT_S, self._worker_beat, worker)

    def _worker_tells(self, worker: TellingWorker) -> None:
        worker.tell()
        self._agenda.at(self.now + REPORT_S, self._worker_tells, worker)

    def _from_worker(self, worker: VirtualWorker, message: FromWorker) -> None:
        self._agenda.at(self.now + DELAY_S, self._hear, WorkerSaid(worker.peer, message))

    def _hear(self, event: WorkerSaid) -> None:
        self.handle(_kind(event), event)

    def _frontend_beat(self, _: None = None) -> None:
        self.handle("frontend's beat", self._said(FrontendBeat("frontend", dict(self._watching))))
        self._agenda.at(self.now + _BEAT_S, self._frontend_beat)

    def _said(self, message: FromFrontend) -> FrontendSaid:
        return FrontendSaid(_FRONTEND, message)

    def _carry_out(self, commands: list[Command]) -> list[str]:
        persisted = []
        for command in commands:
            if isinstance(command, TellWorker):
                if isinstance(command.message, Membership):
                    self._agenda.at(self.now + DELAY_S, self._workers[command.peer].hear, command.message)
            elif isinstance(command, Persist):
                if command.view.ended is None:
                    persisted.append(command.view.job)
            elif isinstance(command, TellFrontend):
                self._to_frontend(command)
        return persisted

    def _to_frontend(self, command: TellFrontend) -> None:
        message = command.message
        if isinstance(message, Refused):
            self._watching.pop(message.call, None)
            self.answers[message.call] = message
        elif isinstance(message, JobEvent) and isinstance(message.event, Accepted):
            for call in message.calls:
                self._watching[call] = message.job
                self.answers[call] = message.event
        elif isinstance(message, JobEvent) and isinstance(message.event, Ended):
            for call in message.calls:
                self._watching.pop(call, None)
                if self.keeps_load:
                    self._agenda.at(self.now + DELAY_S, self._replace, call)

    def _replace(self, call: int) -> None:
        promised = call in self._promised_calls
        self._promised_calls.discard(call)
        self.submit("submission", _LONG_SLO_S * (1.0 + self._random.random()) if promised else None)


def _kind(event: WorkerSaid) -> str:
    message = event.message
    if not isinstance(message, WorkerReport):
        return "worker's beat"
    stages = {report.stage for report in message.latents}
    if Stage.DONE in stages:
        return "report: picture stored"
    if Stage.DECODING in stages:
        return "report: latent past its steps"
    full = len(message.latents) >= 12 and stages == {Stage.DENOISING}
    return "report: progress of a full batch" if full else "report: other"
