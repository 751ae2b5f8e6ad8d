"""The policy `slack`: promises first, then what may still be on time, then age; one rule dispatches and predicts.

1. A worker's line is what its plan says (plans.py): promised latents by deadline, then fillers. The worker goes through it by itself.
2. A filler is a latent without a promise (fillers.py).
3. When something leaves a line, its promises are checked; if one would break, fillers go first.
4. A worker with nothing to do takes what has not begun from the line of another, if it is finished sooner here.
5. What was not promised when it came is offered again when a line gets shorter, while most of its time is left: those worth most for their
   device time first. For a job whose model was not in memory that time begins when it is.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence

from collodion.scheduler.backlog import Backlog
from collodion.scheduler.fillers import Fillers
from collodion.scheduler.fleet import Worker
from collodion.scheduler.job import Job, Latent, Promise, Rank
from collodion.scheduler.planner import Planner, Trial
from collodion.scheduler.planning import Task
from collodion.scheduler.plans import TRANSIT_S, WorkerPlan
from collodion.scheduler.policy import Choice, Situation
from collodion.scheduler.shares import Shares
from collodion.scheduler.transitions import JOB_ENDS
from collodion.wire.jobs import JobState, LatentId, Stage

_LINES_TRIED = 2  # other lines that an idle worker looks into
_LINE = 48  # latents of a line that the worker is told of, and of each batch key at least a window
_FRESH = 0.9  # of its time has to be left: one promised late needs smaller step batches, at the cost of those that come
_HOPEFULS = 64  # jobs that are offered again; the newest have the best prospects
_OFFERED_AGAIN = 3  # of them each time
_OFFERED_AT_ONCE = 16  # of them when a model has come, for which all of them waited


class Slack:
    """See the module."""

    def __init__(
        self, planner: Planner, backlog: Backlog, shares: Shares, patience_s: float, offers_again: bool = True
    ) -> None:
        self.planner = planner
        self.fillers = Fillers(planner, backlog, shares, patience_s)
        self._offers_again = offers_again
        self._backlog = backlog
        self._shares = shares
        self._disturbed: dict[bytes, WorkerPlan] = {}
        self._shortened: dict[bytes, WorkerPlan] = {}
        self._hopefuls: deque[Job] = deque(maxlen=_HOPEFULS)
        self._served: dict[str, float] = {}
        self._came = False
        self._orphans: dict[str, Job] = {}
        self._moved: list[Worker] = []

    # -------------------------------------------------------------- the policy

    def rank(self, latent: Latent) -> Rank:
        """By what its tenant has had of what promises leave, then age; it keeps the one that it has."""
        if latent.rank[1]:
            return latent.rank
        work = 0.0 if latent.job.promised else latent.evaluations_left / latent.job.weight
        tag = self._shares.tag(latent.job.spec.tenant, work)
        return tag, latent.id.job, latent.id.image

    def concerns(self, worker: Worker, latent: Latent) -> bool:
        """If it is in the worker's line, or the step batch may have room for it."""
        if latent.planned is not None:
            return latent.planned == worker.peer
        if worker.cap < 1 or worker.room < 1:
            return False
        plan = self.planner.plans.get(worker.peer)
        if plan is None or not plan.position.order:
            return len(worker.running) < worker.cap
        return plan.has_room(latent.key)

    def choose(self, worker: Worker, situation: Situation, share: int) -> Choice:
        """The worker's line."""
        now = situation.now
        plan = self.planner.plan(worker, now)
        self._check(plan)
        self.fillers.hurry(plan, now)
        plan.makes_way = False
        takes = min(worker.room - plan.coming, share)
        first = self.fillers.first(worker, takes)
        wake = self.fillers.join(plan, first, takes, now) if first is not None else None
        if not plan.position.order:
            if first is not None and plan.costs.of(first.key) is None and not plan.tasks:
                return Choice(tuple(self.fillers.blind(plan, first, takes)))
            self._steal(plan, now)
        room = worker.room
        running: list[Latent] = []
        caps: list[int] = []
        told: Counter[str] = Counter()
        for task in plan.line():
            latent = task.latent
            if len(running) >= _LINE and told[task.key] >= plan.cap(task):
                continue  # it is not among the first of its key, so nobody leads a window with it for long
            told[task.key] += 1
            if not latent.runnable or not latent.job.acknowledged:
                continue
            if latent.worker != worker.peer:
                if room < 1:
                    if not task.promised and latent.worker is None:
                        plan.forget(latent)  # there is no place to hold it: it waits on
                    continue
                room -= 1
            running.append(latent)
            caps.append(plan.cap(task))
        plan.sent()
        return Choice(tuple(running), tuple(caps), plan.position.mark, wake)

    def serve(self, worker: Worker, now: float) -> None:
        """The worker takes latents of other models than before."""
        self._served = {model: since for model, since in self._served.items() if self.planner.serves(model)}
        for model in worker.takes - self._served.keys():
            self._served[model] = now
            self._came = True

    def observe(self, worker: Worker, stepped: Collection[LatentId], boundary: float, now: float) -> None:
        """The worker reported, and its present line is the one it was sent last."""
        plan = self.planner.plan(worker, now)
        plan.observe(stepped, boundary)
        if plan.stale:
            self._disturbed[worker.peer] = plan

    def forget(self, latent: Latent, now: float) -> None:
        """The latent ended, or is set aside: it is in no line any more."""
        plan = self.planner.plan_of(latent) or self.planner.plans.get(latent.worker or b"")
        if plan is None:
            return
        plan.advance(now)  # until then it took its time
        if latent.job.promised:
            self._orphans[latent.job.id] = latent.job
        ended = latent.stage in (Stage.DECODING, Stage.DONE)
        if plan.forget(latent) and not ended:
            self._disturbed[plan.worker.peer] = plan
        self._shortened[plan.worker.peer] = plan

    def lose(self, worker: Worker) -> None:
        """The worker is gone: what was promised on it has to be promised elsewhere."""
        plan = self.planner.plans.get(worker.peer)
        if plan is not None:
            self._orphans.update((task.job, task.latent.job) for task in plan.tasks.values() if task.promised)
        self.planner.lose(worker)
        self._served = {model: since for model, since in self._served.items() if self.planner.serves(model)}
        self._disturbed.pop(worker.peer, None)
        self._shortened.pop(worker.peer, None)

    def start_over(self, jobs: Iterable[Job]) -> None:
        """Makes all plans anew, after a defect: what was promised is promised again, if it can be."""
        self.planner.plans.clear()
        for known in (self._disturbed, self._shortened, self._orphans, self._moved, self._hopefuls):
            known.clear()
        for job in jobs:
            for latent in job.latents:
                latent.planned = None
            if job.promised:
                self._orphans[job.id] = job

    def hope(self, job: Job) -> None:
        """The job may be promised later."""
        if self._offers_again:
            self._hopefuls.append(job)

    def prepare(self, now: float) -> list[Worker]:
        """Puts plans in order after what happened since; the workers whose lines have changed."""
        concerned, self._moved = self._moved, []
        orphans, self._orphans = list(self._orphans.values()), {}
        for job in orphans:
            if job.promised and any(latent.planned is None for latent in job.unfinished()):
                trials = self.planner.trials(job, now)
                job.promised = trials is not None
                concerned += self._commit(trials) if trials is not None else self._line_up(job)
        while self._disturbed:
            _, plan = self._disturbed.popitem()
            plan.advance(now)
            self._check(plan)
            concerned.append(plan.worker)
        shortened, self._shortened = self._shortened, {}
        for plan in shortened.values():
            plan.advance(now)
            if plan.widen():
                concerned.append(plan.worker)
        came, self._came = self._came, False
        if (shortened or came) and self._hopefuls:
            concerned += self._offer_again(now, _OFFERED_AT_ONCE if came else _OFFERED_AGAIN)
        return concerned

    def finish(self, job: Job) -> float | None:
        """When the job will be finished, by the lines it is in; None if it is in none."""
        return self.planner.finish(job)

    def busy_until(self, job: Job, now: float) -> float:
        """When the first of the lines ends."""
        ends = (plan.end for worker in self.planner.workers(job) if (plan := self.planner.plans.get(worker.peer)))
        return max(now, min(ends, default=now))

    # -------------------------------------------------------------- parts

    def _line_up(self, job: Job) -> list[Worker]:
        """What was promised, and cannot be any more, waits like all others."""
        concerned = self.planner.workers(job)
        for latent in job.unfinished():
            if (plan := self.planner.plan_of(latent)) is not None:
                plan.forget(latent)
                concerned.append(plan.worker)
            if latent.worker is None and not latent.ticket and job.acknowledged and job.state is not JobState.PARKED:
                self._backlog.add(latent)
        return concerned

    def _check(self, plan: WorkerPlan) -> None:
        """Predicts anew if need be, and looks for a way out should a promise be late."""
        if not plan.stale:
            return
        plan.rescue()

    def _offer_again(self, now: float, most: int) -> list[Worker]:
        hopeful = [job for job in self._hopefuls if self._has_hope(job, now)]
        self._hopefuls = deque(hopeful, maxlen=_HOPEFULS)
        hopeful.sort(key=lambda job: job.weight / (job.work_s or 1.0))
        concerned: list[Worker] = []
        for job in hopeful[-most:][::-1]:
            if self.may_promise(job, now):
                trials = self.planner.trials(job, now)
                if trials is not None:
                    concerned += self.promise(job, trials, now)
                    self._hopefuls.remove(job)
        return concerned

    def may_promise(self, job: Job, now: float) -> bool:
        """Whether the job may be promised, as far as other tenants are concerned."""
        workers = len(self.planner.workers(job))
        return self._shares.may(job.spec.tenant, job.work_s, now, workers)

    def promise(self, job: Job, trials: Sequence[Trial], now: float) -> list[Worker]:
        """The job is promised: it is in these lines from now on."""
        job.promised = True
        job.promise = Promise(now, max((trial.finish for trial in trials), default=now))
        self._shares.promise(job.spec.tenant, job.work_s, now)
        return self._commit(trials)

    def _commit(self, trials: Sequence[Trial]) -> list[Worker]:
        for trial in trials:
            for task in trial.tasks:
                self._backlog.remove(task.latent)
        return self.planner.commit(trials)

    def _has_hope(self, job: Job, now: float) -> bool:
        if job.promised or job.deadline is None or job.state in (JobState.PARKED, *JOB_ENDS):
            return False
        began = max(job.created, self._served.get(job.spec.parameters.model, now))
        return job.deadline - now > _FRESH * (job.deadline - began)

    def _steal(self, plan: WorkerPlan, now: float) -> None:
        """Takes one latent that has not begun from the longest other line, if it is finished sooner here."""
        models = plan.worker.takes
        others = [other for other in self.planner.plans.values() if other is not plan and len(other.position.order) > 1]
        for other in sorted(others, key=lambda one: -len(one.position.order))[:_LINES_TRIED]:
            task = next((one for one in reversed(other.position.order) if _movable(one, models)), None)
            if task is None or plan.costs.of(task.key) is None:
                continue
            other.advance(now)
            if task not in other.position.order:
                continue
            other.refresh()
            trial = self.planner.trial(plan, [task.latent], task.promised)
            rest = [one for one in other.position.order if one is not task]
            if trial is None or trial.finish > task.finish - TRANSIT_S or (play := other.predicted(rest)) is None:
                continue
            other.forget(task.latent)
            other.adopt(play, rest)
            self._moved.append(other.worker)
            self.planner.commit([trial])
            return


def _movable(task: Task, models: frozenset[str]) -> bool:
    latent = task.latent
    return not latent.evaluations and latent.stage is Stage.WAITING and latent.model in models
