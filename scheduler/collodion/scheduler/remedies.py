"""What would let a job finish sooner: only what is true now and can be computed now, the most helpful first.

1. What could be promised is found as admission finds it: the job, asked for anew with fewer steps or in another tier, is tried in lines.
2. That costs time, and explanations are not worth much of it: each second has a budget of latents that may be played forward for them.
3. No job is changed or moved for it.
"""

import math
from collections.abc import Iterable, Sequence

import msgspec

from collodion.scheduler.admission import slo_of
from collodion.scheduler.cost_model import CostModel
from collodion.scheduler.fleet import Fleet, Worker
from collodion.scheduler.job import Job, new_job
from collodion.scheduler.planner import Planner
from collodion.scheduler.planning import NEVER, KeyCosts, Play, Position, Task
from collodion.scheduler.plans import WorkerCosts
from collodion.scheduler.slack import Slack
from collodion.scheduler.wording import counted, span
from collodion.wire.jobs import Stage
from collodion.wire.to_frontend import TierInfo

_BUDGET = 2_000
"""Latents that may be played forward in a second to explain: about 0.02 s of it."""
_LONGEST_LINE = 250  # behind a longer one nothing is tried
_STEPS_TRIED = 6
_WORTH_SAYING = 0.1  # of the time to the end: what saves less is no remedy


class Remedies:
    """Finds them. `slack` is the policy, if it is one that promises."""

    def __init__(
        self, tiers: Sequence[TierInfo], fleet: Fleet, costs: CostModel, planner: Planner, slack: Slack | None
    ) -> None:
        self._tiers = tiers
        self._fleet = fleet
        self._costs = costs
        self._planner = planner
        self._slack = slack
        self._spent = 0
        self._second = 0.0

    def of(self, job: Job, finish: float | None, now: float) -> tuple[str, ...]:
        """For a job that some worker could run; `finish` is when it is predicted to be finished (Unix seconds)."""
        begun = any(latent.stage is not Stage.WAITING for latent in job.latents)
        found = [] if begun or job.promised else [self._fewer_steps(job, finish, now), self._tier(job, finish, now)]
        return tuple(remedy for remedy in (*found, self._alone(job, finish, begun, now)) if remedy)

    def behind_promises(self, job: Job, now: float) -> float | None:
        """When a job that is in no line would be finished behind all that is promised; None if that is too dear to find out."""
        if not self._affords(now):
            return None
        before = self._planner.played
        finish = self._planner.finish_without_promise(job, now)
        self._spent += self._planner.played - before
        return finish

    # -------------------------------------------------------------- fewer steps, another tier

    def _fewer_steps(self, job: Job, finish: float | None, now: float) -> str:
        asked = job.spec.parameters.steps
        if job.deadline is None or job.deadline <= now or asked <= job.spec.parameters.least_steps:
            return ""
        if self._slack is not None:
            steps, how = self._most_steps(job, job.deadline, now), "could be promised by its deadline"
        else:
            steps, how = self._steps_in_place(job, finish, job.deadline), "would be done by its deadline, in its place"
        return f"{counted(steps, 'step', 'steps')} instead of {asked} {how}" if steps else ""

    def _most_steps(self, job: Job, deadline: float, now: float) -> int:
        """The most steps, fewer than asked for, that could be promised now; 0 if none were found."""
        low, high, best = job.spec.parameters.least_steps, job.spec.parameters.steps - 1, 0
        for _ in range(_STEPS_TRIED):
            if low > high:
                break
            steps = (low + high + 1) // 2 if best else low
            if self._promised_finish(self._anew(job, now, deadline - now, steps=steps), now) is not None:
                best, low = steps, steps + 1
            elif best:
                high = steps - 1
            else:
                break
        return best

    def _steps_in_place(self, job: Job, finish: float | None, deadline: float) -> int:
        """The steps with which it is predicted to be finished by its deadline, where it stands now; 0 if there are none."""
        costs = [costs for worker in self._planner.workers(job) if (costs := self._known(worker, job.key))]
        asked, least = job.spec.parameters.steps, job.spec.parameters.least_steps
        if finish is None or finish <= deadline or not costs:
            return 0
        each = (job.evaluations - self._planner.evaluations(job, least)) / (asked - least) * costs[0].step[job.rows]
        steps = asked - math.ceil((finish - deadline) / each) if each > 0 else 0
        return steps if steps >= least else 0

    def _tier(self, job: Job, finish: float | None, now: float) -> str:
        """The first tier that could be promised now, and in which it would be finished sooner than is predicted."""
        if self._slack is None:
            return ""
        alone_s = self._planner.alone_s(job.spec.parameters)
        for tier in self._tiers:
            slo_s = slo_of(tier, alone_s)
            if tier.name == job.spec.tier or slo_s is None:
                continue
            promised = self._promised_finish(self._anew(job, now, slo_s, tier=tier), now)
            if promised is not None and (finish is None or promised < finish):
                return f"tier {tier.name}: that could be promised, and it would be done in about {span(promised - now)}"
        return ""

    def _anew(self, job: Job, now: float, slo_s: float, steps: int = 0, tier: TierInfo | None = None) -> Job:
        """The job as if it came now."""
        asked = job.spec.parameters
        spec = msgspec.structs.replace(
            job.spec, parameters=msgspec.structs.replace(asked, steps=steps or asked.steps), slo_s=slo_s
        )
        info = self._fleet.info(asked.model)
        assert info is not None, "a job was accepted for a model that was never seen"
        anew = new_job(f"{job.id}?", spec, now, slo_s, info, job.weight if tier is None else tier.weight)
        anew.work_s = self._planner.least_s(anew)
        return anew

    def _promised_finish(self, job: Job, now: float) -> float | None:
        """When the job would be finished, were it promised now; None if it could not be, or that is too dear to find out."""
        if self._slack is None or not self._affords(now) or not self._slack.may_promise(job, now):
            return None
        before = self._planner.played
        trials = self._planner.trials(job, now, workers=1)
        self._spent += self._planner.played - before
        return max(trial.finish for trial in trials) if trials else None

    def _affords(self, now: float) -> bool:
        """Whether a line may be played forward."""
        if now >= self._second + 1.0:
            self._second, self._spent = now, 0
        lines = (plan.position.order for plan in self._planner.plans.values())
        return self._spent < _BUDGET and max(map(len, lines), default=0) <= _LONGEST_LINE

    # -------------------------------------------------------------- no company

    def _alone(self, job: Job, finish: float | None, begun: bool, now: float) -> str:
        """What it would save to have a worker for itself."""
        if finish is None:
            return ""
        workers = self._planner.workers(job)
        if begun:
            workers = [worker for worker in workers if any(one.worker == worker.peer for one in job.latents)]
        alone_s = self._alone_s(job, workers)
        if alone_s is None or finish - now - alone_s <= _WORTH_SAYING * (finish - now):
            return ""
        less = f"it would be done in about {span(alone_s)}, {span(finish - now - alone_s)} sooner"
        if begun:
            return f"nobody before or beside it: {less}"
        return f"another worker that has the model {job.spec.parameters.model}, or nobody before it: {less}"

    def _alone_s(self, job: Job, workers: Iterable[Worker]) -> float | None:
        kinds = {(one.device_kind, one.cap, one.encode_batch, one.decode_batch): one for one in workers}
        known = [(worker, costs) for worker in kinds.values() if (costs := self._known(worker, job.key))]
        return min((_alone_s(job, worker, costs) for worker, costs in known), default=None)

    def _known(self, worker: Worker, key: str) -> KeyCosts | None:
        plan = self._planner.plans.get(worker.peer)
        return (WorkerCosts(worker, self._costs) if plan is None else plan.costs).of(key)


def _alone_s(job: Job, worker: Worker, costs: KeyCosts) -> float:
    """What is left of the job, played on this worker with nothing else on it."""
    tasks = [Task(one, job.id, job.key, job.rows, one.evaluations_left, NEVER) for one in job.unfinished()]
    decoding = [task for task in tasks if task.latent.stage is Stage.DECODING]
    order = [task for task in tasks if task.latent.stage is not Stage.DECODING]
    encoded = {job.id} if any(latent.evaluations for latent in job.latents) else set()
    play = Play(Position(0.0, order, decoding, encoded), {job.key: costs}, worker.decode_batch, worker.encode_batch)
    play.to_end(only_if_kept=False)
    return max(play.finished.values(), default=0.0)
