"""Fillers: what runs without a promise, in what promises leave.

1. A filler joins where the step batch has room, as long as every promise still holds with it. While jobs are being turned away none
   joins (but who was promised once): what can be done is wanted for more promises, and the next to be promised would have to wait for
   the evaluation's end.
2. Who waited longer than the patience goes before everything that can spare it, even then. So nothing starves while there is time to
   spare. Where nothing is promised only so few of them run then that an evaluation stays short.
3. The least rank first. One whose batch key is another than the leader's is put in line too, and leads when those before it are done.
4. A latent whose costs are unknown can be in no plan. It runs blind, when the line is empty, and its costs are learned. If that does not
   happen by itself, one worker makes way for it: nothing new comes into its line until that is empty.
"""

from collections import deque

from collodion.scheduler.backlog import Backlog
from collodion.scheduler.fleet import Worker
from collodion.scheduler.job import Latent, Rank
from collodion.scheduler.planner import Planner
from collodion.scheduler.planning import NEVER
from collodion.scheduler.plans import WorkerPlan, place
from collodion.scheduler.shares import Shares
from collodion.wire.jobs import Stage

_BUSY_S = 10.0
_TURNED_AWAY = 3
"""So many jobs that could not be promised within so long, and more of them are expected."""

_UNKNOWN_S = 30.0
"""The longest patience of what has unknown costs: every model and size is new once, and can be promised nothing until it ran."""

_AGAIN_S = 1.0
"""How often it is tried to let one go before promises that waited too long."""


class Fillers:
    """Lets them join the workers' lines."""

    def __init__(self, planner: Planner, backlog: Backlog, shares: Shares, patience_s: float) -> None:
        self._planner = planner
        self._backlog = backlog
        self._shares = shares
        self._patience_s = patience_s
        self._turned_away: deque[float] = deque([-NEVER] * _TURNED_AWAY, maxlen=_TURNED_AWAY)

    def turn_away(self, now: float) -> None:
        """A job could not be promised."""
        self._turned_away.append(now)

    def busy(self, now: float) -> bool:
        """Whether jobs were turned away lately, so that more of them are expected."""
        return now < self._turned_away[0] + _BUSY_S

    def first(self, worker: Worker, takes: int) -> Latent | None:
        """The least rank of what the worker holds in no line, and of what waits if it may take any."""
        own = (latent for latent in worker.held.values() if latent.planned is None and latent.runnable)
        mine = min(own, key=_rank, default=None)
        head = self._backlog.head(worker.takes) if takes > 0 else None
        return min((latent for latent in (mine, head) if latent is not None), key=_rank, default=None)

    def join(self, plan: WorkerPlan, first: Latent, takes: int, now: float) -> float | None:
        """Lets fillers into the line, `first` being the least of them; when time alone lets more of them in (Unix seconds)."""
        impatient = first.job.created + self._patience_s
        if plan.tasks and plan.costs.of(first.key) is None:
            impatient = min(impatient, first.job.created + _UNKNOWN_S)
            if now >= impatient and self._makes_way(plan):
                return None
        if now < impatient and first.job.promise is None and self.busy(now):
            return min(impatient, self._turned_away[0] + _BUSY_S)
        if plan.keeps_promises and now >= impatient:
            return None if self._squeeze_in(plan, first) else now + _AGAIN_S
        for latent in self._wanted(plan, first, takes, now) if not plan.full else ():
            if not self._add(plan, latent):
                plan.full = True
                break
        return max(impatient, now + _AGAIN_S) if plan.full else None

    def hurry(self, plan: WorkerPlan, now: float) -> None:
        """Puts a filler of the line whose patience has ended before all that can spare it."""
        if not plan.keeps_promises:
            return
        for task in plan.position.order:
            if not (task.promised or task.squeezed_in) and now >= task.latent.job.created + self._patience_s:
                task.squeezed_in = True
                line = sorted(plan.position.order, key=place)
                if (play := plan.predicted(line)) is not None:
                    plan.adopt(play, line)
                else:
                    task.squeezed_in = False
                return

    def _makes_way(self, plan: WorkerPlan) -> bool:
        """One worker at a time does."""
        plan.makes_way = all(not other.makes_way for other in self._planner.plans.values() if other is not plan)
        return plan.makes_way

    def blind(self, plan: WorkerPlan, first: Latent, takes: int) -> list[Latent]:
        """What runs while the line is empty and what `first` costs is unknown."""
        worker = plan.worker
        if first.suspect and any(latent.stage is Stage.DECODING for latent in worker.held.values()):
            return []  # should it kill the worker, it is to be plain that it was this one
        mine = [latent for latent in worker.held.values() if latent.runnable and latent.key == first.key]
        waiting = self._backlog.first_for(worker.takes, first, min(takes, worker.cap))
        return sorted((*mine, *waiting), key=_rank)[: worker.cap]

    def _wanted(self, plan: WorkerPlan, first: Latent, takes: int, now: float) -> list[Latent]:
        leader = plan.position.order[0].latent if plan.position.order else first
        costs = plan.costs.of(leader.key)
        if costs is None:
            return []
        cap = costs.cap(leader.job.rows) if not self.busy(now) else costs.gentle(leader.job.rows)
        free = cap - sum(task.key == leader.key for task in plan.position.order)
        held = plan.worker.held.values()
        mine = [one for one in held if one.planned is None and one.runnable and one.key == leader.key]
        newcomers = self._backlog.first_for(plan.worker.takes, leader, min(takes, free))
        wanted = sorted((*mine, *newcomers), key=_rank)[: max(0, free)]
        if first.key != leader.key and (first.worker is not None or takes > sum(one.worker is None for one in wanted)):
            known = plan.costs.of(first.key) is not None
            if not known:
                return [one for one in wanted if one.rank < first.rank]  # else it would never come to lead
            if all(task.key != first.key for task in plan.position.order):
                wanted.append(first)
        return wanted

    def _add(self, plan: WorkerPlan, latent: Latent) -> bool:
        task = self._planner.task(plan, latent, promised=False)
        if not plan.keeps_promises:
            plan.add_filler(task)
        else:
            line = sorted((*plan.position.order, task), key=place)
            play = plan.predicted(line)
            if play is None:
                return False
            plan.adopt(play, line)
        self._shares.begin(latent.rank[0])
        return True

    def _squeeze_in(self, plan: WorkerPlan, latent: Latent) -> bool:
        """Puts the latent before all that is promised, if that can spare it."""
        if plan.costs.of(latent.key) is None:
            return False
        task = self._planner.task(plan, latent, promised=False)
        task.squeezed_in = True
        line = sorted((*plan.position.order, task), key=place)
        play = plan.predicted(line)
        if play is not None:
            plan.adopt(play, line)
            self._shares.begin(latent.rank[0])
        return play is not None


def _rank(latent: Latent) -> Rank:
    return latent.rank
