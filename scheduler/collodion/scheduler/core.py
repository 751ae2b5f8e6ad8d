"""The core: state, event and time in; state and commands out. No clock, no socket, no sleep, no chance.

1. `handle` is the only way in. Time is what it is told, in Unix seconds, and never goes back.
2. Handlers change records and note who is concerned; `Dispatch.settle` then decides, once, at the end.
3. Should a handler break off by a defect of ours, the commands so far stand, since each tells of what was done; `mend` then
   makes everything that is derived anew from the records, and the caller of the broken message is refused.
"""

from collodion.scheduler.admission import Admission
from collodion.scheduler.backlog import Backlog
from collodion.scheduler.baselines import InOrder, Static
from collodion.scheduler.book import JobBook
from collodion.scheduler.catalogue import catalogue
from collodion.scheduler.census import Census, census
from collodion.scheduler.config import PolicyName, SchedulerConfig
from collodion.scheduler.cost_model import CostModel
from collodion.scheduler.demand import Demand
from collodion.scheduler.dispatch import Dispatch
from collodion.scheduler.door import Door
from collodion.scheduler.events import (
    Command,
    Event,
    Forget,
    FrontendSaid,
    Outbox,
    Persisted,
    SendFailed,
    TellFrontend,
    TellWorker,
    WorkerSaid,
)
from collodion.scheduler.explain import Explainer
from collodion.scheduler.fleet import Fleet
from collodion.scheduler.frontends import Frontend, Frontends
from collodion.scheduler.ids import NewJobId
from collodion.scheduler.intake import Intake
from collodion.scheduler.lifecycle import Lifecycle
from collodion.scheduler.model_calls import ModelCalls
from collodion.scheduler.planner import Planner
from collodion.scheduler.policy import Policy
from collodion.scheduler.prediction import Prediction
from collodion.scheduler.reports import Reports
from collodion.scheduler.residency import ResidencyRule
from collodion.scheduler.shares import Shares
from collodion.scheduler.slack import Slack
from collodion.scheduler.watchers import Watchers
from collodion.wire.jobs import Reason
from collodion.wire.to_frontend import Catalogue, JobEvent, Refused
from collodion.wire.to_scheduler import FrontendBeat, LeaveJob
from collodion.wire.to_worker import SchedulerBeat


class Core:
    """One scheduler. `incarnation` is its own, fresh at each start."""

    def __init__(self, config: SchedulerConfig, incarnation: str, new_job_id: NewJobId, now: float) -> None:
        self._config = config
        self._incarnation = incarnation
        self._outbox = Outbox()
        self._next_beat = now
        self.costs = CostModel()
        self.book = JobBook()
        self.fleet = Fleet(config.batch_cap)
        self.watchers = Watchers(self._outbox)
        backlog = Backlog()
        planner = Planner(self.fleet, self.costs, full_batches=config.policy is PolicyName.EDF_PREDICT)
        self.residency = ResidencyRule(incarnation, config, self.fleet, Demand(backlog), planner, self._outbox)
        self._model_calls = ModelCalls(self.fleet, self.residency, self._outbox)
        policy, admission = _policy(config, planner, backlog, self.residency)
        self.dispatch = Dispatch(incarnation, self.fleet, policy, backlog, self.costs, self._outbox)
        self.frontends = Frontends(self._outbox)
        prediction = Prediction(self.fleet, backlog, self.costs, policy, self.residency)
        self._lifecycle = Lifecycle(self.book, self.watchers, self.dispatch, prediction, self._outbox)
        self._reports = Reports(
            incarnation, self.fleet, self.dispatch, self._lifecycle, self.watchers, self.costs, self.residency
        )
        self._catalogue_version, self._catalogue = self._version, catalogue(config, self.fleet, self.residency)
        window_s = config.admission_window_s if config.policy is PolicyName.SLACK else 0.0
        self._door = Door(admission, window_s, self._lifecycle)
        explainer = Explainer(config, self.fleet, backlog, self.costs, planner, policy, prediction, self.residency)
        self._intake = Intake(
            config,
            self.book,
            self.fleet,
            self.watchers,
            self._lifecycle,
            self._door,
            planner,
            explainer,
            self.residency,
            self._model_calls,
            self._outbox,
            new_job_id,
        )

    def handle(self, event: Event, now: float) -> list[Command]:
        """What is to be done about this event, at this time (Unix seconds)."""
        if isinstance(event, FrontendSaid):
            self._intake.handle(self._heard(event.peer, now), event.message, now)
        elif isinstance(event, WorkerSaid):
            if self._reports.handle(event.peer, event.message, event.opaque, now):
                self._outbox.add(TellWorker(event.peer, SchedulerBeat(self._incarnation)))
        elif isinstance(event, Persisted):
            for job_id in event.jobs:
                self._lifecycle.acknowledge(job_id, now)
        elif isinstance(event, SendFailed):
            self._send_failed(event)
        self._pass_time(now)
        self._door.open(now)
        self._settle_models(now)
        self.dispatch.settle(now)
        while hopeless := self.dispatch.hopeless():
            for job in hopeless:
                self._lifecycle.give_up(job, now)
            self.dispatch.settle(now)
        if self._catalogue_version != self._version:
            self._catalogue_version = self._version
            self._catalogue = catalogue(self._config, self.fleet, self.residency)
        self.frontends.offer(self._catalogue)
        return self._outbox.take()

    def next_wake(self) -> float:
        """When time alone will change something (Unix seconds): `handle(Ticked())` is due then."""
        times = (
            self._next_beat,
            self._lifecycle.graces.next(),
            self.dispatch.wake(),
            self._door.next(),
            self.residency.wake(),
        )
        return min(when for when in times if when is not None)

    def census(self) -> Census:
        """How many of everything there are; O(number of unfinished latents)."""
        frontends = sum(1 for _ in self.frontends.present())
        return census(self.book, self.fleet, self.costs, frontends, self.residency.waiting())

    def mend(self, event: Event, now: float) -> list[Command]:
        """After `handle` raised: what was decided until then, and a refusal for the call that could not be handled."""
        self.book.recount()
        self.residency.mend()
        self._door.mend(list(self.book.live.values()))
        self._lifecycle.mend(self._config.grace_s, now)
        if isinstance(event, FrontendSaid) and not isinstance(event.message, FrontendBeat | LeaveJob):
            number = event.message.call
            if (call := self.watchers.get(event.peer, number)) is not None:
                self.watchers.remove(call)
                self._lifecycle.unwatched(call.job, self._config.grace_s, now)
            refusal = Refused(number, Reason.INTERNAL, "the scheduler failed; its log says how")
            self._outbox.add(TellFrontend(event.peer, refusal))
        return self._outbox.take()

    # -------------------------------------------------------------- peers

    def _heard(self, peer: bytes, now: float) -> Frontend:
        frontend, is_new = self.frontends.heard(peer, now)
        if is_new:
            self._outbox.add(TellFrontend(peer, SchedulerBeat(self._incarnation)))
        return frontend

    def _send_failed(self, event: SendFailed) -> None:
        if isinstance(event.message, JobEvent):
            self.watchers.failed(event.peer, event.message)
        elif isinstance(event.message, Catalogue):
            self.frontends.missed_catalogue(event.peer)

    # -------------------------------------------------------------- models

    def _settle_models(self, now: float) -> None:
        for worker in self.residency.settle(now):
            self.dispatch.serve(worker, now)
        for model, reason in self.residency.placement.unusable():
            self._lifecycle.fail_waiting(model, reason, now)
        self._model_calls.answer()

    @property
    def _version(self) -> tuple[int, int]:
        """Of what the catalogue tells."""
        return self.fleet.version, self.residency.version

    # -------------------------------------------------------------- time

    def _pass_time(self, now: float) -> None:
        self._lifecycle.end_graces(now)
        if now < self._next_beat:
            return
        # If it was we who stood still, the peers' beats may lie unread: they are not dead for that.
        late = now - self._next_beat
        patience_s = self._config.beat_s * self._config.beats_missed + (late if late > self._config.beat_s else 0.0)
        self._next_beat = now + self._config.beat_s
        self._beat()
        for worker in list(self.fleet.workers.values()):
            if now - worker.heard > patience_s:
                self._reports.lose(worker, by_death=True, now=now)
        for peer in self.frontends.fallen_silent(now - patience_s):
            self._intake.hang_up(peer, now)
        for peer in self.frontends.forget(now - patience_s - self._config.frontend_grace_s):
            for call in self.watchers.of_peer(peer):
                self.watchers.remove(call)
                self._lifecycle.unwatched(call.job, 0.0, now)
        for job_id in self.book.forget_ended(now - self._config.retention_s, self._config.max_ended_jobs):
            self._outbox.add(Forget(job_id))

    def _beat(self) -> None:
        beat = SchedulerBeat(self._incarnation)
        for frontend in self.frontends.present():
            self._outbox.add(TellFrontend(frontend.peer, beat))
        for worker in self.fleet.workers.values():
            self._outbox.add(TellWorker(worker.peer, beat))


def _policy(
    config: SchedulerConfig, planner: Planner, backlog: Backlog, residency: ResidencyRule
) -> tuple[Policy, Admission | None]:
    """The policy of the settings, and who judges its jobs; None: all are accepted."""
    name = config.policy
    if name is PolicyName.STATIC:
        return Static(config.static_size, config.static_timeout_s), None
    if name in (PolicyName.SLACK, PolicyName.EDF_PREDICT):
        shares = Shares()
        policy = Slack(planner, backlog, shares, config.patience_s, offers_again=name is PolicyName.SLACK)
        return policy, Admission(policy, shares, residency, config.tier_infos())
    by_deadline, drop = name is PolicyName.EDF_DROP, name in (PolicyName.EDF_DROP, PolicyName.FIFO_DROP)
    return InOrder(by_deadline, drop), None
