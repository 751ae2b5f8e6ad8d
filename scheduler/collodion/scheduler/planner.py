"""Where a job can be promised: its images are tried in the lines of a few workers, by the rule that will run them.

1. A job is promised only if a play of every line that it joins has nobody late in it. Then that line is adopted: by induction no promise
   breaks while costs are exact.
2. A job's images are dealt out over the workers that are idle, if several are. Else it goes whole to the worker that finishes it first,
   which costs the fleet least; only if none can is it dealt out.
3. What is not promised gives way: where the line is too slow with it, it is tried without.
4. Step batches are as large as is best for throughput. Smaller ones let a job in that would make another late, and cost every job that
   comes after: they are tried only while nobody has been turned away for a while (`searches_wide`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from collodion.scheduler.cost_model import CostModel
from collodion.scheduler.fleet import Fleet, Worker
from collodion.scheduler.job import Job, Latent
from collodion.scheduler.planning import NEVER, Batching, KeyCosts, Play, Task
from collodion.scheduler.plans import TRANSIT_S, WorkerCosts, WorkerPlan, place
from collodion.wire.jobs import Parameters, Stage

_WORKERS_TRIED = 3
_PATIENT = 0.5  # of its time is all that a job takes behind everybody else


@dataclass(frozen=True, slots=True)
class Trial:
    """A line that a worker could go on with, and its play."""

    plan: WorkerPlan
    line: tuple[Task, ...]
    play: Play
    tasks: tuple[Task, ...]

    @property
    def finish(self) -> float:
        """When the last of the new tasks is finished (Unix seconds)."""
        return max((self.play.finished[task] for task in self.tasks), default=self.play.time)


class Planner:
    """The plans of all workers."""

    def __init__(self, fleet: Fleet, model: CostModel, full_batches: bool = False) -> None:
        self._fleet = fleet
        self._model = model
        self._full_batches = full_batches
        self.plans: dict[bytes, WorkerPlan] = {}
        self.played = 0
        self._kinds_of: dict[str, list[KeyCosts]] = {}
        self._kinds_version = -1, -1
        self.searches_wide = False

    # -------------------------------------------------------------- plans

    def plan(self, worker: Worker, now: float) -> WorkerPlan:
        """The worker's plan, brought up to now."""
        plan = self.plans.get(worker.peer)
        if plan is None or plan.worker is not worker:
            plan = self.plans[worker.peer] = WorkerPlan(worker, self._worker_costs(worker), now)
            decoding = (latent for latent in worker.held.values() if latent.stage is Stage.DECODING)
            plan.position.decoding = [
                self.task(plan, latent, promised=False)
                for latent in decoding
                if plan.costs.of(latent.job.key) is not None
            ]
        plan.advance(now)
        return plan

    def lose(self, worker: Worker) -> None:
        """The worker is gone, and its plan with it."""
        if (plan := self.plans.pop(worker.peer, None)) is not None:
            for task in plan.tasks.values():
                task.latent.planned = None

    def plan_of(self, latent: Latent) -> WorkerPlan | None:
        """The plan whose line the latent is in."""
        return self.plans.get(latent.planned) if latent.planned is not None else None

    def finish(self, job: Job) -> float | None:
        """When the job's images will all be finished by the plans they are in; None if one of them is in none."""
        latest = 0.0
        for latent in job.unfinished():
            plan = self.plan_of(latent)
            if plan is None or plan.tasks[latent.id].finish == NEVER:
                return None
            latest = max(latest, plan.tasks[latent.id].finish)
        return latest + TRANSIT_S if latest else None

    def workers(self, job: Job) -> list[Worker]:
        """The workers that take latents of the job's model."""
        return self._fleet.with_model(job.spec.parameters.model)

    def serves(self, model: str) -> bool:
        """Whether there is such a worker."""
        return self._fleet.has_taker(model)

    # -------------------------------------------------------------- what a job takes

    def alone_s(self, parameters: Parameters) -> float | None:
        """What one image would take on the fastest worker that has the model, were it idle; None while costs are unknown."""
        info = self._fleet.info(parameters.model)
        if info is None:
            return None
        evaluations, rows = info.evaluations_of(parameters), info.rows_of(parameters)
        known = self._kinds(parameters.model, parameters.batch_key)
        return min((costs.alone_s(evaluations, rows) for costs in known), default=None)

    def evaluations(self, job: Job, steps: int) -> int:
        """How many model calls the job's images take with so many steps."""
        info = self._fleet.info(job.spec.parameters.model)
        assert info is not None, "a job was accepted for a model that was never seen"
        return info.evaluations_of(msgspec.structs.replace(job.spec.parameters, steps=steps))

    def least_s(self, job: Job) -> float:
        """The device time that the job's images take in the best of company, on the fastest worker; 0 while unknown."""
        known = self._kinds(job.spec.parameters.model, job.key)
        each = min((costs.least_s(job.evaluations, job.rows) for costs in known), default=0.0)
        return each * len(job.latents)

    def _kinds(self, model: str, key: str) -> list[KeyCosts]:
        """What the key costs on each kind of worker that has the model and knows it."""
        version = self._model.version, self._fleet.version
        if self._kinds_version != version:
            self._kinds_version = version
            self._kinds_of.clear()
        if key not in self._kinds_of:
            workers = {(one.device_kind, one.cap, one.decode_batch): one for one in self._fleet.knowing(model)}
            known = (self._worker_costs(worker).of(key) for worker in workers.values())
            self._kinds_of[key] = [costs for costs in known if costs is not None]
        return self._kinds_of[key]

    # -------------------------------------------------------------- placing

    def trials(self, job: Job, now: float, workers: int = _WORKERS_TRIED) -> tuple[Trial, ...] | None:
        """Lines that have all unfinished images of the job in them, promised, and nobody late; None if none was found.

        Images that a worker holds, or has in its line, stay with it.
        """
        sorted_out = self._bound_and_free(job)
        if sorted_out is None:
            return None
        bound, free = sorted_out
        plans = self._candidates(job, now)
        # A worker that is to be rid of the model keeps what it has.
        keeping = self._known_by(job, (self._fleet.workers[peer] for peer in bound), now)
        everywhere = [*plans, *(plan for plan in keeping if plan not in plans)]
        if bound.keys() - {plan.worker.peer for plan in everywhere}:
            return None
        if not free:
            return self._all(everywhere, [], bound)
        idle = [plan for plan in plans if not plan.tasks]
        if len(idle) > 1 and len(free) > 1 and (dealt := self._all(everywhere, _deal(free, idle), bound)):
            return dealt
        whole = [trials for plan in plans[:workers] if (trials := self._all(everywhere, [(plan, free)], bound))]
        if whole:
            return min(whole, key=lambda trials: max(trial.finish for trial in trials))
        among = 2
        while len(free) > 1 and among < 2 * min(len(plans), len(free)):
            if (dealt := self._all(everywhere, _deal(free, plans[:among]), bound)) is not None:
                return dealt
            among *= 2
        return None

    def _bound_and_free(self, job: Job) -> tuple[dict[bytes, list[Latent]], list[Latent]] | None:
        """The images that a worker has, and the others; None if one of them can be in no plan."""
        bound: dict[bytes, list[Latent]] = {}
        free: list[Latent] = []
        for latent in job.unfinished():
            if latent.suspect:
                return None
            if self._is_past_steps(latent):
                if not job.promised:
                    return None  # what is nearly done is no longer planned, so nothing can be said of it
                continue
            peer = latent.planned or latent.worker
            (free if peer is None else bound.setdefault(peer, [])).append(latent)
        return bound, free

    def trial(self, plan: WorkerPlan, latents: Sequence[Latent], promised: bool = True) -> Trial | None:
        """The plan's line with these latents in it, without its fillers if need be; None if a promise would break."""
        names = {latent.id for latent in latents}
        line = [task for task in plan.position.order if task.latent.id not in names]
        if plan.makes_way and any(latent.planned != plan.worker.peer for latent in latents):
            return None
        if not plan.has_space(sum(plan.worker.peer not in (latent.worker, latent.planned) for latent in latents)):
            return None
        tasks = tuple(self.task(plan, latent, promised) for latent in latents)
        bare = sorted((*(task for task in line if task.promised), *tasks), key=place)
        full = sorted((*line, *tasks), key=place)
        attempts = [(full, Batching.BEST), (bare, Batching.BEST)] if len(bare) < len(full) else [(full, Batching.BEST)]
        if any(task.cap for task in bare):
            attempts.append((bare, Batching.KEPT))
        if self.searches_wide:
            attempts.append((bare, Batching.AFFORDED))
        for attempt, batching in attempts:
            self.played += len(attempt)
            if (play := plan.predicted(attempt, batching=batching)) is not None:
                return Trial(plan, tuple(attempt), play, tasks)
        return self._behind(plan, [task for task in bare if task not in tasks], tasks) if promised else None

    def _behind(self, plan: WorkerPlan, line: list[Task], tasks: tuple[Task, ...]) -> Trial | None:
        """The tasks behind all of the line, beside none of it, for jobs that have twice the time that takes.

        Who joins a step batch makes it slower: where a promise in it has nothing to spare, even who has much time could not come in.
        """
        if not line or not tasks or tasks[0].due < line[-1].due:
            return None
        caps: dict[Task, int] = {}
        behind: Counter[str] = Counter()
        for task in reversed(line):
            behind[task.key] += 1
            caps[task] = min(behind[task.key], plan.costs[task.key].cap(task.rows))
        self.played += len(line) + len(tasks)
        play = plan.predicted([*line, *tasks], batching=Batching.AFFORDED, caps=caps)
        if play is None:
            return None
        trial = Trial(plan, (*line, *tasks), play, tasks)
        now = plan.position.time
        return trial if trial.finish - now <= _PATIENT * (tasks[0].due - now) else None

    def commit(self, trials: Iterable[Trial]) -> list[Worker]:
        """Adopts the lines; the workers concerned."""
        concerned = []
        for trial in trials:
            trial.plan.drop_fillers(unless_in=trial.line)
            trial.plan.adopt(trial.play, trial.line)
            concerned.append(trial.plan.worker)
        return concerned

    def finish_without_promise(self, job: Job, now: float) -> float | None:
        """When the job would be finished behind all that is promised (Unix seconds); None while its costs are unknown."""
        best: float | None = None
        for plan in self._candidates(job, now)[:_WORKERS_TRIED]:
            tasks = [self.task(plan, latent, False) for latent in job.unfinished()]
            line = [*plan.promised, *tasks]
            self.played += len(line)
            play = plan.predicted(line, only_if_kept=False)
            assert play is not None
            finish = max((play.finished[task] for task in tasks), default=now)
            best = finish if best is None else min(best, finish)
        return best

    def task(self, plan: WorkerPlan, latent: Latent, promised: bool) -> Task:
        """The latent as a task of this plan."""
        job = latent.job
        due = NEVER if job.deadline is None else job.deadline - plan.costs[job.key].store - TRANSIT_S
        return Task(latent, job.id, job.key, job.rows, plan.left(latent), due, promised)

    def _all(
        self,
        plans: Sequence[WorkerPlan],
        dealt: Sequence[tuple[WorkerPlan, list[Latent]]],
        bound: Mapping[bytes, list[Latent]],
    ) -> tuple[Trial, ...] | None:
        """One trial for each plan that has some of the images; None if one fails."""
        wanted = {plan.worker.peer: list(latents) for plan, latents in dealt}
        for peer, latents in bound.items():
            wanted[peer] = [*wanted.get(peer, []), *latents]
        found: list[Trial] = []
        for plan in plans:
            if latents := wanted.get(plan.worker.peer, []):
                trial = self.trial(plan, latents)
                if trial is None:
                    return None
                found.append(trial)
        return tuple(found)

    def _candidates(self, job: Job, now: float) -> list[WorkerPlan]:
        """The workers that know what the job's key costs, the one that is free first before others."""
        known = self._known_by(job, self.workers(job), now)
        return sorted(known, key=lambda plan: plan.end + plan.costs[job.key].least_s(job.evaluations, job.rows))

    def _known_by(self, job: Job, workers: Iterable[Worker], now: float) -> list[WorkerPlan]:
        """The plans of those of the workers that know what the job's key costs."""
        return [plan for worker in workers if (plan := self.plan(worker, now)).costs.of(job.key) is not None]

    def _is_past_steps(self, latent: Latent) -> bool:
        plan = self.plan_of(latent)
        return latent.stage is Stage.DECODING or (plan is not None and plan.is_past_steps(latent))

    def _worker_costs(self, worker: Worker) -> WorkerCosts:
        return WorkerCosts(worker, self._model, self._full_batches)


def _deal(latents: list[Latent], plans: Sequence[WorkerPlan]) -> list[tuple[WorkerPlan, list[Latent]]]:
    chosen = plans[: len(latents)]
    return [(plan, latents[index :: len(chosen)]) for index, plan in enumerate(chosen)]
