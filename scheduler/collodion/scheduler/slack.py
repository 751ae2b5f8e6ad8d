"""The policy `slack`: promises first, then what may still be on time, then age; one rule dispatches and predicts.

1. A worker's line is what its plan says (plans.py): promised latents by deadline, then fillers. The worker goes through it by itself.
2. A filler is a latent without a promise. It joins where the step batch has room, as long as every promise still holds with it: it costs
   promises nothing but spare time.
3. When something leaves a line, its promises are checked; if one would break, fillers go first.
4. A worker with nothing to do takes what has not begun from the line of another, if it is finished sooner here.
5. What was not promised when it came, and may still be on time, is offered again when a line gets shorter.
"""

from collections import deque
from collections.abc import Iterable

from collodion.scheduler.backlog import Backlog
from collodion.scheduler.fleet import Worker
from collodion.scheduler.job import Job, Latent, Rank
from collodion.scheduler.planner import Planner, Trial
from collodion.scheduler.planning import NEVER, Task
from collodion.scheduler.plans import WorkerPlan, place
from collodion.scheduler.policy import Choice, Situation
from collodion.scheduler.shares import Shares
from collodion.wire.jobs import Stage

_BUSY_S = 10.0  # so long after a job could not be promised, more of them are expected
_LINE = 128  # latents of a line that the worker is told of
_HOPEFULS = 64  # jobs that are offered again; the newest have the best prospects
_OFFERED_AGAIN = 3  # of them each time


class Slack:
    """See the module."""

    def __init__(self, planner: Planner, backlog: Backlog, shares: Shares, patience_s: float) -> None:
        self.planner = planner
        self._backlog = backlog
        self._shares = shares
        self._patience_s = patience_s
        self._disturbed: dict[bytes, WorkerPlan] = {}
        self._shortened: dict[bytes, WorkerPlan] = {}
        self._turned_away = -NEVER
        self._hopefuls: deque[Job] = deque(maxlen=_HOPEFULS)
        self._orphans: dict[str, Job] = {}

    # -------------------------------------------------------------- the policy

    def rank(self, latent: Latent) -> Rank:
        """By what its tenant has had of what promises leave, then age."""
        tag = self._shares.tag(latent.job.spec.tenant, latent.evaluations_left / latent.job.weight)
        return tag, latent.id.job, latent.id.image

    def concerns(self, worker: Worker, latent: Latent) -> bool:
        """If it is in the worker's line, or the step batch may have room for it."""
        if latent.planned is not None:
            return latent.planned == worker.peer
        if worker.cap < 1 or worker.room < 1:
            return False
        plan = self.planner.plans.get(worker.peer)
        return plan is None or plan.has_room(latent.key)

    def choose(self, worker: Worker, situation: Situation, share: int) -> Choice:
        """The worker's line."""
        now = situation.now
        plan = self.planner.plan(worker, now)
        self._check(plan)
        blind = self._fill(plan, situation.backlog, now, share)
        if not plan.position.order and not blind:
            self._steal(plan, now)
        line = [task.latent for task in plan.line()][:_LINE] or blind
        room = worker.room
        running: list[Latent] = []
        for latent in line:
            if not latent.runnable or not latent.job.acknowledged:
                continue
            if latent.worker is None:
                room -= 1
            if room >= 0:
                running.append(latent)
        if blind:
            return Choice(tuple(running))
        caps = tuple(plan.costs[latent.key].cap(latent.job.rows) for latent in running)
        return Choice(tuple(running), caps, plan.position.mark)

    def observe(self, worker: Worker, boundary: float, now: float) -> None:
        """The worker reported, and its present line is the one it was sent last."""
        plan = self.planner.plan(worker, now)
        plan.observe(boundary)
        if plan.stale:
            self._disturbed[worker.peer] = plan

    def forget(self, latent: Latent) -> None:
        """The latent ended, or is set aside: it is in no line any more."""
        plan = self.planner.plan_of(latent) or self.planner.plans.get(latent.worker or b"")
        if plan is None:
            return
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
        self._disturbed.pop(worker.peer, None)
        self._shortened.pop(worker.peer, None)

    def hope(self, job: Job) -> None:
        """The job may be promised later."""
        self._hopefuls.append(job)

    def turn_away(self, now: float) -> None:
        """A job could not be promised."""
        self._turned_away = now

    def prepare(self, now: float) -> list[Worker]:
        """Puts plans in order after what happened since; the workers whose lines have changed."""
        concerned: list[Worker] = []
        orphans, self._orphans = list(self._orphans.values()), {}
        for job in orphans:
            if job.promised and any(latent.planned is None for latent in job.unfinished()):
                trials = self.planner.trials(job, now)
                job.promised = trials is not None
                concerned += self._commit(trials or ())
        while self._disturbed:
            _, plan = self._disturbed.popitem()
            plan.advance(now)
            self._check(plan)
            concerned.append(plan.worker)
        shortened, self._shortened = self._shortened, {}
        if shortened and self._hopefuls:
            concerned += self._offer_again(now)
        return concerned

    def finish(self, job: Job) -> float | None:
        """When the job will be finished, by the lines it is in; None if it is in none."""
        return self.planner.finish(job)

    # -------------------------------------------------------------- parts

    def _check(self, plan: WorkerPlan) -> None:
        """Predicts anew if need be; should a promise be late, fillers go."""
        if not plan.stale:
            return
        plan.refresh()
        if plan.spare_s < 0 and any(not task.promised for task in plan.position.order):
            plan.drop_fillers()
            plan.refresh()

    def _offer_again(self, now: float) -> list[Worker]:
        hopeful = [job for job in self._hopefuls if self._has_hope(job, now)]
        self._hopefuls = deque(hopeful, maxlen=_HOPEFULS)
        hopeful.sort(key=lambda job: (job.created - now) / ((job.deadline or NEVER) - job.created))
        concerned: list[Worker] = []
        for job in hopeful[-_OFFERED_AGAIN:][::-1]:
            if self._shares.may(job.spec.tenant, self.planner.least_s(job), now):
                trials = self.planner.trials(job, now)
                if trials is not None:
                    concerned += self.promise(job, trials, now)
                    self._hopefuls.remove(job)
        return concerned

    def promise(self, job: Job, trials: Iterable[Trial], now: float) -> list[Worker]:
        """The job is promised: it is in these lines from now on."""
        job.promised = True
        self._shares.promise(job.spec.tenant, self.planner.least_s(job), now)
        return self._commit(trials)

    def _commit(self, trials: Iterable[Trial]) -> list[Worker]:
        trials = list(trials)
        for trial in trials:
            for task in trial.tasks:
                self._backlog.remove(task.latent)
        return self.planner.commit(trials)

    def _has_hope(self, job: Job, now: float) -> bool:
        if job.promised or job.deadline is None or all(latent.ended for latent in job.latents):
            return False
        return job.deadline > now

    def _fill(self, plan: WorkerPlan, backlog: Backlog, now: float, share: int) -> list[Latent]:
        """Lets fillers join; what runs blind, if nothing else is to run and its costs are unknown."""
        worker = plan.worker
        takes = min(worker.room, share)
        own = sorted(
            (one for one in worker.held.values() if one.runnable and one.planned is None), key=lambda one: one.rank
        )
        head = backlog.head(worker.model_names) if takes > 0 else None
        first = min(
            (latent for latent in (*own[:1], head) if latent is not None), key=lambda one: one.rank, default=None
        )
        if first is None:
            return []
        leads = plan.leader().latent if plan.position.order else first
        key, model = leads.key, leads.model
        costs = plan.costs.of(key)
        if costs is None:
            mine = [latent for latent in own if latent.key == key]
            waiting = backlog.first(model, key, min(takes, worker.cap))
            return sorted((*mine, *waiting), key=lambda one: one.rank)[: worker.cap]
        if plan.full:
            return []
        free = plan.free(costs) if plan.position.order else costs.cap(first.job.rows)
        wanted = [latent for latent in own if latent.key == key]
        wanted += backlog.first(model, key, min(takes, free))
        wanted = sorted(wanted, key=lambda one: one.rank)[: max(0, free)]
        if (
            first.key != key
            and plan.costs.of(first.key) is not None
            and not any(t.key == first.key for t in plan.position.order)
        ):
            wanted.append(first)  # it leads when those before it are done
        for latent in wanted:
            if not self._join(plan, latent, now):
                plan.full = True
                break
            self._shares.begin(latent.rank[0])
        return []

    def _join(self, plan: WorkerPlan, latent: Latent, now: float) -> bool:
        task = self.planner.task(plan, latent, promised=False)
        if plan.spare_s == NEVER:
            plan.add_filler(task)
            return True
        if now < self._turned_away + _BUSY_S:
            return False  # what promises can spare is wanted for more promises
        line = sorted((*plan.position.order, task), key=place)
        play = plan.predicted(line)
        if play is not None:
            plan.adopt(play, line)
        return play is not None

    def _steal(self, plan: WorkerPlan, now: float) -> None:
        """Takes one latent that has not begun from the longest other line, if it is finished sooner here."""
        models = plan.worker.model_names
        others = [other for other in self.planner.plans.values() if other is not plan and other.end > now]
        for other in sorted(others, key=lambda one: -one.end)[:2]:
            task = next((t for t in reversed(other.position.order) if _movable(t, models)), None)
            if task is None or plan.costs.of(task.key) is None:
                continue
            trial = self.planner.trial(plan, [task.latent], task.promised)
            if trial is None or trial.finish >= task.finish:
                continue
            rest = [one for one in other.position.order if one is not task]
            other.advance(now)
            play = other.predicted(rest)
            if play is None:
                continue
            other.forget(task.latent)
            other.adopt(play, rest)
            self._disturbed[other.worker.peer] = other
            self.planner.commit([trial])
            return


def _movable(task: Task, models: frozenset[str]) -> bool:
    latent = task.latent
    return not latent.evaluations and latent.stage is Stage.WAITING and latent.model in models
