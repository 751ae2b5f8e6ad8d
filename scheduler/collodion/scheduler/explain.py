"""Why a job is not finished sooner: what it waits for, in one sentence with numbers, and what would let it finish sooner.

1. Nothing is decided here: it is told what was decided and predicted. (The plans are brought up to now, as by any decision.)
2. Of a job's images those are told of that are furthest from their end: those in no line, else those that wait in line, else those that
   are denoised, else those past their steps.
3. A number is one that was counted or predicted; where there is none, none is said.
"""

import itertools
from collections import Counter
from collections.abc import Sequence

from collodion.scheduler.backlog import Backlog
from collodion.scheduler.config import PolicyName, SchedulerConfig
from collodion.scheduler.cost_model import CostModel
from collodion.scheduler.fleet import Fleet, Worker
from collodion.scheduler.job import Job, Latent
from collodion.scheduler.planner import Planner
from collodion.scheduler.planning import NEVER, Task
from collodion.scheduler.plans import WorkerPlan
from collodion.scheduler.policy import Policy
from collodion.scheduler.prediction import Prediction
from collodion.scheduler.remedies import Remedies
from collodion.scheduler.residency import ResidencyRule
from collodion.scheduler.slack import Slack
from collodion.scheduler.wording import counted, listed, moment, span
from collodion.wire.jobs import JobState, Stage
from collodion.wire.to_frontend import Explanation

_LOOKED_AT = 64  # of those that wait


class Explainer:
    """Explains unfinished jobs."""

    def __init__(
        self,
        config: SchedulerConfig,
        fleet: Fleet,
        backlog: Backlog,
        costs: CostModel,
        planner: Planner,
        policy: Policy,
        prediction: Prediction,
        residency: ResidencyRule,
    ) -> None:
        self._config = config
        self._fleet = fleet
        self._backlog = backlog
        self._planner = planner
        self._slack = policy if isinstance(policy, Slack) else None
        self._prediction = prediction
        self._residency = residency
        self._remedies = Remedies(config.tier_infos(), fleet, costs, planner, self._slack)

    def explain(self, job: Job, now: float) -> Explanation:
        """The job as it stands; `now` is Unix seconds."""
        model = job.spec.parameters.model
        if not job.acknowledged:
            return Explanation("it is not durable yet: until it is, nobody is told of it, and none of it runs")
        if job.state is JobState.PARKED:
            left_s = (job.parked_until or now) - now
            said = f"it is set aside, because its client hung up, and cancelled in {span(left_s)}"
            return Explanation(said, ("a client that watches it again: then it goes on",))
        held = {latent.worker for latent in job.unfinished()} - {None}
        workers = [worker for worker in self._fleet.with_model(model) if worker.cap > 0]
        workers = workers or [self._fleet.workers[peer] for peer in held if peer is not None]
        if not workers:
            return self._cold(job, model, now)
        finish = self._prediction.finish(job, now)
        if self._slack is not None and finish is not None and not all(map(self._is_in_line, job.unfinished())):
            finish = max(finish, self._remedies.behind_promises(job, now) or finish)
        summary = self._waits_for(job, workers, now) + self._deadline(job, finish, now)
        return Explanation(summary, self._remedies.of(job, finish, now))

    def _cold(self, job: Job, model: str, now: float) -> Explanation:
        """Of a job whose model no worker has in memory."""
        if not any(worker.cap > 0 for worker in self._fleet.knowing(model)):
            return Explanation(f"it waits for a worker that has the model {model}: none is alive", ("such a worker",))
        finish, ready_s = self._prediction.finish(job, now), self._residency.ready_in(model)
        to_go = f", about {span(ready_s)} to go" if ready_s is not None else ""
        if self._residency.is_coming(model):
            return Explanation(f"it waits for the model {model} to load{to_go}" + self._deadline(job, finish, now))
        turn = self._residency.makes_way(model)
        if turn is not None:
            place = f"{listed(turn[1])} at {turn[0]} to be done with what they have begun, and then for {model} to load"
            return Explanation(f"it waits for {place}" + self._deadline(job, finish, now))
        busy = f"it waits for room for the model {model}: all that could make way is in use or pinned"
        return Explanation(busy, ("more memory for models (model_mib), or another worker that has the model",))

    def _waits_for(self, job: Job, workers: Sequence[Worker], now: float) -> str:
        unfinished = list(job.unfinished())
        stepped = [latent for latent in unfinished if self._is_stepped(latent)]
        waiting = [latent for latent in unfinished if latent not in stepped and latent.stage is not Stage.DECODING]
        outside = [latent for latent in waiting if not self._is_in_line(latent)]
        if outside:
            first = outside[0]
            could = workers if first.worker is None else [self._fleet.workers[first.worker]]
            return f"{_subject(job, outside)}: {self._outside(job, first, could, now)}"
        if waiting:
            return self._in_line(job, waiting, now)
        if joining := [latent for latent in stepped if latent.stage in (Stage.WAITING, Stage.PARKED)]:
            batch = f"the step batch of {self._fleet.workers[joining[0].worker or b''].name}"
            return f"{_images(job, joining)} {_verb(joining, 'joins', 'join')} {batch} at the next boundary"
        if encoded := [latent for latent in stepped if latent.stage is Stage.ENCODING]:
            return f"{_images(job, encoded)} {_verb(encoded, 'has its', 'have their')} prompt encoded"
        if stepped:
            return self._denoised(job, stepped)
        return (
            f"{_images(job, unfinished)} {_verb(unfinished, 'is', 'are')} past the last step, to be decoded and stored"
        )

    # -------------------------------------------------------------- in the works, and in line

    def _denoised(self, job: Job, latents: Sequence[Latent]) -> str:
        slowest = min(latents, key=lambda latent: latent.evaluations)
        worker = self._fleet.workers[slowest.worker or b""]
        beside = sum(latent.job is not job for latent in self._window(worker))
        company = f" beside {counted(beside, 'other', 'others')}" if beside else ""
        done = f"{slowest.evaluations} of {counted(job.evaluations, 'evaluation', 'evaluations')}"
        if len(job.latents) == 1:
            return f"denoising at {worker.name}{company}: {done}"
        which = f"{_images(job, latents)} {_verb(latents, 'is', 'are')} denoised"
        return f"{which}, the slowest at {worker.name}{company}: {done}"

    def _in_line(self, job: Job, waiting: Sequence[Latent], now: float) -> str:
        """Of those that wait in the line in which the last of them is."""
        peer = _line_of(max(waiting, key=self._finish))
        mine = [latent for latent in waiting if _line_of(latent) == peer]
        worker = self._fleet.workers[peer]
        plan = self._planner.plans.get(peer)
        line = [task.latent for task in plan.line()] if plan is not None and mine[0].planned else worker.running
        ahead = list(itertools.takewhile(lambda latent: latent.job is not job or latent not in mine, line))
        first = line[len(ahead)] if len(ahead) < len(line) else mine[0]
        behind = Counter(self._kind(job, latent, plan) for latent in ahead)
        whom = listed([counted(count, *kind) for kind, count in behind.items()])
        said = f"{_subject(job, mine)} in the line of {worker.name}{f' behind {whom}' if whom else ', next'}"
        begin = _begin(plan, plan.tasks[first.id]) if plan is not None and first.id in plan.tasks else None
        if begin is None:
            return said
        who = "it begins" if len(mine) == 1 else "the first of them begins"
        return f"{said}; {who} in about {span(begin - now)}"

    def _kind(self, job: Job, latent: Latent, plan: WorkerPlan | None) -> tuple[str, str]:
        """What one that is before it in line is to the job, and what several are."""
        if latent.job is job:
            return "of its own images", "of its own images"
        if self._slack is None:
            if self._config.policy is PolicyName.EDF_DROP:
                return "with an earlier deadline", "with earlier deadlines"
            return "that came before it", "that came before it"
        task = plan.tasks.get(latent.id) if plan is not None else None
        if task is not None and task.squeezed_in:
            return "that waited past the patience", "that waited past the patience"
        if not latent.job.promised:
            return "without a promise", "without a promise"
        if job.promised:
            return "that is promised an earlier deadline", "that are promised earlier deadlines"
        return "that is promised its deadline", "that are promised their deadlines"

    def _is_stepped(self, latent: Latent) -> bool:
        """Whether the step batch has it, or will have it at the next boundary."""
        worker = self._fleet.workers.get(latent.worker or b"")
        return worker is not None and latent in self._window(worker)

    def _is_in_line(self, latent: Latent) -> bool:
        if latent.planned is not None:
            return True
        worker = self._fleet.workers.get(latent.worker or b"")
        return worker is not None and latent in worker.running

    def _window(self, worker: Worker) -> list[Latent]:
        """What the worker's step batch is made of."""
        running = [latent for latent in worker.running if latent.runnable]
        if not running:
            return []
        caps = worker.wish[1] if worker.wish is not None else ()
        cap = caps[worker.running.index(running[0])] if caps else worker.cap
        return [latent for latent in running if latent.key == running[0].key][:cap]

    def _finish(self, latent: Latent) -> float:
        plan = self._planner.plan_of(latent)
        task = plan.tasks.get(latent.id) if plan is not None else None
        return NEVER if task is None else task.finish

    # -------------------------------------------------------------- in no line

    def _outside(self, job: Job, latent: Latent, workers: Sequence[Worker], now: float) -> str:
        if latent.worker is None and all(worker.room < 1 for worker in workers):
            return "every worker that has the model holds as many images as it can"
        if self._slack is not None:
            return self._unpromised(job, latent, workers, self._slack, now)
        if self._config.policy is PolicyName.STATIC:
            return self._closed(latent, workers, now)
        by_deadline = self._config.policy is PolicyName.EDF_DROP
        kind = "those with earlier deadlines" if by_deadline else "what came before it"
        whom = workers[0].name if len(workers) == 1 else f"{len(workers)} workers"
        return f"{whom} {_verb(workers, 'runs', 'run')} {kind}{self._before(latent)}"

    def _unpromised(self, job: Job, latent: Latent, workers: Sequence[Worker], slack: Slack, now: float) -> str:
        """Why what has no promise is in no line."""
        if latent.suspect:
            return f"{latent.losses} workers died while they ran it, so it runs alone, when a worker's line is empty"
        if self._planner.alone_s(job.spec.parameters) is None:
            return "its costs are not known yet; it runs, and they are learned, when a worker's line is empty"
        plans = [plan for worker in workers if (plan := self._planner.plans.get(worker.peer)) is not None]
        patience_s = job.created + self._config.patience_s - now
        if len(plans) == len(workers) and all(plan.keeps_promises for plan in plans):
            if patience_s <= 0:
                return "it waited past the patience, and goes before what is promised when that can spare it"
            if slack.fillers.busy(now):
                lately = "requests were turned away lately, so what has no promise waits"
                return f"{lately} (its patience ends in {span(patience_s)})"
            if all(plan.full for plan in plans):
                return "with it in a step batch a promise would be broken"
        return f"the step batches have no room{self._before(latent)}"

    def _closed(self, latent: Latent, workers: Sequence[Worker], now: float) -> str:
        """Why no static batch has it."""
        idle = [worker for worker in workers if not worker.running and worker.room > 0]
        full = min(self._config.static_size, max(worker.cap for worker in workers))
        count = self._backlog.count(latent.model, latent.key)
        oldest = self._backlog.first(latent.model, latent.key, 1)
        if idle and oldest and count < full:
            left_s = oldest[0].job.created + self._config.static_timeout_s - now
            if left_s > 0:
                return f"the batch is to fill: {count} of {full} are there, and in {span(left_s)} it starts as it is"
        return f"the batches that run are closed until all in them is done{self._before(latent)}"

    def _before(self, latent: Latent) -> str:
        """How many like it wait before it."""
        line = self._backlog.first(latent.model, latent.key, _LOOKED_AT + 1)
        if latent not in line:
            return f", and more than {_LOOKED_AT} wait before it" if latent.ticket and line else ""
        before = sum(one.job is not latent.job for one in line[: line.index(latent)])
        return f", and {counted(before, 'image waits', 'images wait')} before it" if before else ""

    # -------------------------------------------------------------- by when

    def _deadline(self, job: Job, finish: float | None, now: float) -> str:
        if job.deadline is None:
            return ""
        when = moment(job.deadline)
        if job.promised:
            if finish is None:
                return f"; it is promised by {when}"
            spare_s = job.deadline - finish
            how = f"has {span(spare_s)} to spare" if spare_s >= 0 else f"will be missed by {span(-spare_s)}"
            return f"; its promise ({when}) {how}"
        if job.deadline <= now:
            return f"; its deadline ({when}) has passed"
        expected = ""
        if finish is not None:
            late_s = finish - job.deadline
            expected = f"it is expected {span(abs(late_s))} {'after' if late_s > 0 else 'before'} its deadline ({when})"
        if self._slack is None:
            return f"; {expected}" if expected else f"; its deadline is {when}"
        shared = not self._slack.may_promise(job, now)
        why = ", because its tenant asks for more than its share" if shared else ""
        return f"; it is not promised{why}" + (f", and {expected}" if expected else f" (its deadline is {when})")


def _begin(plan: WorkerPlan, task: Task) -> float | None:
    """When a task that waits in line is first stepped (Unix seconds), by the play that was adopted; None if there was none."""
    order = plan.position.order
    if task not in order:
        return None
    ahead = order[: order.index(task)]
    like = sorted(one.finish for one in ahead if one.key == task.key)
    lead = next((index for index, one in enumerate(ahead) if one.key == task.key), len(ahead))
    ends = [one.finish for one in ahead[:lead]]  # of other keys: they lead, one after the other
    cap = task.cap or plan.costs[task.key].cap(task.rows)
    if len(like) >= cap:
        ends.append(like[len(like) - cap])
    begin = max(ends, default=plan.position.time) - (plan.costs[task.key].store if ends else 0.0)
    return begin if begin < NEVER else None


def _line_of(latent: Latent) -> bytes:
    return latent.planned or latent.worker or b""


def _images(job: Job, latents: Sequence[Latent]) -> str:
    if len(job.latents) == 1:
        return "its image"
    return f"{'' if len(latents) == len(job.latents) else f'{len(latents)} of '}its {len(job.latents)} images"


def _subject(job: Job, latents: Sequence[Latent]) -> str:
    """Its images wait, or are parked."""
    done = min(latent.evaluations for latent in latents)
    if not done:
        return f"{_images(job, latents)} {_verb(latents, 'waits', 'wait')}"
    all_of_it = counted(job.evaluations, "evaluation", "evaluations")
    return f"{_images(job, latents)} {_verb(latents, 'is', 'are')} parked after {done} of {all_of_it}"


def _verb(some: Sequence[object], one: str, more: str) -> str:
    return one if len(some) == 1 else more
