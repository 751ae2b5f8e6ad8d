"""What a frontend's message does.

1. Everything is checked before anything changes.
2. A tenant's jobs are its own: those of others do not exist for it.
3. A beat is compared with the calls that we know. One that it does not name was hung up; one that we do not know was lost
   with an earlier scheduler, or on its way, and its client has to watch again.
"""

import math
from collections.abc import Callable

import msgspec

from collodion.scheduler.admission import slo_of
from collodion.scheduler.book import JobBook
from collodion.scheduler.config import SchedulerConfig
from collodion.scheduler.door import Door
from collodion.scheduler.events import Outbox, TellFrontend
from collodion.scheduler.explain import Explainer
from collodion.scheduler.fleet import Fleet
from collodion.scheduler.frontends import Frontend
from collodion.scheduler.ids import NewJobId
from collodion.scheduler.job import Job, new_job
from collodion.scheduler.lifecycle import Lifecycle
from collodion.scheduler.listing import page
from collodion.scheduler.model_calls import ModelCalls
from collodion.scheduler.planner import Planner
from collodion.scheduler.residency import ResidencyRule
from collodion.scheduler.watchers import Call, Watchers
from collodion.wire.jobs import JobSpec, Reason
from collodion.wire.to_frontend import JobAnswer, Refused
from collodion.wire.to_scheduler import (
    CancelJob,
    FromFrontend,
    FrontendBeat,
    GetJob,
    LeaveJob,
    ListJobs,
    LoadModel,
    SubmitJob,
    UnloadModel,
    WatchJob,
)

_QUEUE_FULL_RETRY_S = 2.0
_BEATS_TO_UNDERSTAND_AN_END = 1


class Intake:
    """Handles what frontends say."""

    def __init__(
        self,
        config: SchedulerConfig,
        book: JobBook,
        fleet: Fleet,
        watchers: Watchers,
        lifecycle: Lifecycle,
        door: Door,
        planner: Planner,
        explainer: Explainer,
        residency: ResidencyRule,
        model_calls: ModelCalls,
        outbox: Outbox,
        new_job_id: NewJobId,
    ) -> None:
        self._config = config
        self._tiers = {tier.name: tier for tier in config.tier_infos()}
        self._book = book
        self._fleet = fleet
        self._watchers = watchers
        self._lifecycle = lifecycle
        self._door = door
        self._planner = planner
        self._explainer = explainer
        self._residency = residency
        self._model_calls = model_calls
        self._outbox = outbox
        self._new_job_id = new_job_id
        self._handlers: dict[type, Callable[..., None]] = {
            SubmitJob: self._submit,
            WatchJob: self._watch,
            LeaveJob: self._leave,
            CancelJob: self._cancel,
            GetJob: self._get,
            ListJobs: self._list,
            LoadModel: self._models,
            UnloadModel: self._models,
            FrontendBeat: self._beat,
        }

    def handle(self, frontend: Frontend, message: FromFrontend, now: float) -> None:
        """One message."""
        self._handlers[type(message)](frontend, message, now)

    def hang_up(self, peer: bytes, now: float) -> None:
        """The frontend is silent: nobody is there behind its calls."""
        for call in self._watchers.of_peer(peer):
            call.present = False
            self._lifecycle.unwatched(call.job, self._config.frontend_grace_s, now)

    # -------------------------------------------------------------- calls

    def _submit(self, frontend: Frontend, message: SubmitJob, now: float) -> None:
        if not frontend.is_new(message.call):
            return
        spec = msgspec.structs.replace(message.spec, detach=message.spec.detach or not message.watch)
        known = self._book.of_request(spec)
        refusal = self._objection(spec, message.call) if known is None else _reused(spec, known[1], message.call)
        if refusal is not None:
            self._outbox.add(TellFrontend(frontend.peer, refusal))
            return
        job_id = known[0] if known is not None else self._enter(spec, now).id
        if message.watch:
            self._attach(frontend, message.call, job_id, now)
        else:
            self._answer(frontend, message.call, job_id, now)

    def _enter(self, spec: JobSpec, now: float) -> Job:
        info = self._fleet.info(spec.parameters.model)
        assert info is not None, "it would have been refused"
        tier = self._tiers[spec.tier]
        slo_s = slo_of(tier, self._planner.alone_s(spec.parameters)) if spec.slo_s is None else spec.slo_s
        job = new_job(self._new_job_id(now), spec, now, slo_s, info, tier.weight)
        job.work_s = self._planner.least_s(job)
        self._book.add(job)
        self._residency.asked(spec.parameters.model, now)
        self._door.ask(job, now)
        return job

    def _watch(self, frontend: Frontend, message: WatchJob, now: float) -> None:
        if frontend.is_new(message.call) and self._found(frontend, message):
            self._attach(frontend, message.call, message.job, now)

    def _leave(self, frontend: Frontend, message: LeaveJob, now: float) -> None:
        call = self._watchers.get(frontend.peer, message.call)
        if call is not None:
            self._watchers.remove(call)
            self._lifecycle.unwatched(call.job, self._config.grace_s, now)

    def _cancel(self, frontend: Frontend, message: CancelJob, now: float) -> None:
        if self._found(frontend, message):
            job = self._book.live.get(message.job)
            if job is not None:
                self._lifecycle.cancel(job, "a client cancelled it", now)
            self._answer(frontend, message.call, message.job, now)

    def _get(self, frontend: Frontend, message: GetJob, now: float) -> None:
        if not self._found(frontend, message):
            return
        job = self._book.live.get(message.job)
        if job is None or not job.acknowledged:
            self._answer(frontend, message.call, message.job, now)
        elif (shown := self._lifecycle.standing(job.id, now)) is not None:
            view = msgspec.structs.replace(shown.view, explanation=self._explainer.explain(job, now))
            self._outbox.add(TellFrontend(frontend.peer, JobAnswer(message.call, view)))

    def _list(self, frontend: Frontend, message: ListJobs, now: float) -> None:
        self._outbox.add(TellFrontend(frontend.peer, page(message, self._book, self._lifecycle, now)))

    def _models(self, frontend: Frontend, message: LoadModel | UnloadModel, now: float) -> None:
        self._model_calls.handle(frontend.peer, message, now)

    def _beat(self, frontend: Frontend, message: FrontendBeat, now: float) -> None:
        known = {call.number: call for call in self._watchers.of_peer(frontend.peer)}
        for call in known.values():
            if call.number not in message.watching:
                self._watchers.remove(call)
                self._lifecycle.unwatched(call.job, self._config.grace_s, now)
            else:
                self._named(call, now)
        for number in message.watching.keys() - known.keys():
            restarted = "this scheduler does not know the call: it was restarted, and jobs are lost with it"
            self._refuse(frontend.peer, number, Reason.SCHEDULER_RESTARTED, restarted, self._config.beat_s)

    # -------------------------------------------------------------- parts

    def _named(self, call: Call, now: float) -> None:
        """A beat named a call that we know: it is brought up to date if it missed anything."""
        if call.ended:
            call.named_ended += 1
            call.ended = call.named_ended <= _BEATS_TO_UNDERSTAND_AN_END
        over = call.job not in self._book.live
        current = call.present and call.accepted and not call.stale and not over
        call.present = True
        if not current and not call.ended:
            self._lifecycle.watched(call.job)
            self._bring_up_to_date(call, now)

    def _attach(self, frontend: Frontend, number: int, job_id: str, now: float) -> None:
        call = self._watchers.add(frontend.peer, number, job_id)
        self._lifecycle.watched(job_id)
        self._bring_up_to_date(call, now)

    def _bring_up_to_date(self, call: Call, now: float) -> None:
        job = self._book.live.get(call.job)
        if job is not None and not job.acknowledged:
            return  # it is told when it is
        shown = self._lifecycle.standing(call.job, now)
        if shown is None:
            self._watchers.remove(call)
            self._refuse(call.peer, call.number, Reason.JOB_NOT_FOUND, f"job {call.job} is no longer kept")
        else:
            self._watchers.update(call, shown, now)

    def _answer(self, frontend: Frontend, number: int, job_id: str, now: float) -> None:
        job = self._book.live.get(job_id)
        if job is not None and not job.acknowledged:
            job.answers_due.append((frontend.peer, number))
        elif (shown := self._lifecycle.standing(job_id, now)) is not None:
            self._outbox.add(TellFrontend(frontend.peer, JobAnswer(number, shown.view)))

    def _found(self, frontend: Frontend, message: WatchJob | CancelJob | GetJob) -> bool:
        spec = self._book.spec(message.job)
        if spec is not None and spec.tenant == message.tenant:
            return True
        self._refuse(frontend.peer, message.call, Reason.JOB_NOT_FOUND, f"there is no job {message.job[:64]}")
        return False

    def _objection(self, spec: JobSpec, call: int) -> Refused | None:
        asked = spec.parameters
        if not self._fleet.models():
            patience_s = self._config.beat_s * self._config.beats_missed
            return Refused(call, Reason.NO_WORKER, "no worker has come yet", patience_s)
        if fault := self._residency.placement.fault(asked.model):
            return Refused(call, Reason.MODEL_UNUSABLE, fault)
        if self._fleet.info(asked.model) is None:
            return Refused(call, Reason.MODEL_NOT_FOUND, f"there is no model {asked.model[:64]}")
        if fault := self._fault(spec):
            return Refused(call, Reason.INVALID_FIELDS, fault)
        return self._full(spec, call)

    def _full(self, spec: JobSpec, call: int) -> Refused | None:
        config, book, tenant = self._config, self._book, spec.tenant
        workers = max(1, len(self._fleet.knowing(spec.parameters.model)))
        bounds = (
            ("the tenant's queue is full", book.live_of_tenant[tenant] >= config.max_jobs_per_tenant, 0.0),
            ("the queue is full", len(book.live) >= config.max_jobs, 0.0),
            (
                "the tenant's queue holds too many seconds of work",
                None,
                book.work_s_of_tenant.get(tenant, 0.0) / workers - config.max_queue_s_per_tenant,
            ),
            (
                "the queue holds too many seconds of work",
                None,
                sum(book.work_s_of_tenant.values()) / workers - config.max_queue_s,
            ),
        )
        for message, by_count, excess_s in bounds:
            if by_count or excess_s > 0:
                return Refused(call, Reason.QUEUE_FULL, message, max(_QUEUE_FULL_RETRY_S, excess_s))
        return None

    def _fault(self, spec: JobSpec) -> str:
        """What the frontend should have found; empty if there is nothing."""
        if spec.tier not in self._tiers:
            return f"tier: {spec.tier[:64]} is none of {', '.join(self._tiers)}"
        if not 1 <= spec.parameters.images <= self._config.max_images:
            return f"images: has to be 1 to {self._config.max_images}"
        if spec.parameters.steps < 1:
            return "steps: has to be at least 1"
        if not 0 < spec.parameters.strength <= 1 or spec.parameters.steps_run < 1:
            return "strength: leaves no step to run"
        if not 0 <= spec.parameters.step_cache <= 1:
            return "step_cache: has to be 0 to 1"
        if spec.slo_s is not None and not 0 < spec.slo_s < math.inf:
            return "slo: has to be more than 0"
        return ""

    def _refuse(self, peer: bytes, call: int, reason: Reason, message: str, retry_after_s: float | None = None) -> None:
        self._outbox.add(TellFrontend(peer, Refused(call, reason, message, retry_after_s)))


def _reused(spec: JobSpec, asked: JobSpec, call: int) -> Refused | None:
    if asked == spec:
        return None
    return Refused(call, Reason.REQUEST_ID_REUSED, f"request_id {spec.request_id} was used for another request")
