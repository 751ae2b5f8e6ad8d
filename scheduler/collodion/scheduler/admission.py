"""Can this deadline be kept without making a promised job late? Yes, and then it is promised; or what could be promised instead.

1. Of jobs that come together (door.py) those worth most for their device time are judged first.
2. A job that cannot be promised is, by its own wish, refused with a counter-offer, promised with fewer steps, or accepted without a
   promise. What is offered has been tried.
3. Nothing is promised of a model that is not in memory. Who would be refused for it is told when it will be, and it is loaded.
4. Judging costs time, and that is bounded: each second has a budget of latents that may be played forward. Once that is spent a job is
   tried on one worker only, and one late deadline is tried for an offer. That is as safe, and promises less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from collodion.scheduler.job import Job
from collodion.scheduler.planner import Planner, Trial
from collodion.scheduler.residency import ResidencyRule
from collodion.scheduler.shares import Shares
from collodion.scheduler.slack import Slack
from collodion.scheduler.wording import span
from collodion.wire.jobs import DeadlinePolicy, Reason
from collodion.wire.to_frontend import CounterOffer, TierInfo

_BUDGET = 10_000
"""Latents that may be played forward in a second before judging gets cheaper: about 0.1 s of it."""
_STRETCH = 3_000
"""Latents played forward at a stretch, before the messages of others are looked at: some 20 ms."""
_STEPS_TRIED = 6
_PIONEER_S = 1.0
_COSTS_UNKNOWN = "nothing can be promised: what this model costs at this size is not known yet"
_FINISHES_TRIED = 5
_LONGER = 1.3
_LONGER_AT_ONCE = 2.5
"""A later deadline is offered in steps of so much: finer ones would be tried for longer, and be gone when the offer is taken up."""
_LATER_S = 0.1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a job. No `reason`: it is accepted, as it now stands; `warning` tells of what was changed."""

    job: Job
    reason: Reason | None = None
    message: str = ""
    retry_after_s: float | None = None
    offer: CounterOffer | None = None
    warning: tuple[str, str] | None = None


class Admission:
    """Judges jobs that have a deadline."""

    def __init__(self, policy: Slack, shares: Shares, residency: ResidencyRule, tiers: Sequence[TierInfo]) -> None:
        self._policy = policy
        self._planner: Planner = policy.planner
        self._shares = shares
        self._residency = residency
        self._tiers = tiers
        self._second = 0.0
        self._played_before = 0
        self._begun = 0
        self._pioneers: dict[str, Job] = {}

    def ask(self, job: Job, now: float) -> None:
        """The job came; it is judged later."""
        self._shares.ask(job.spec.tenant, job.work_s, now)

    def worth(self, job: Job) -> float:
        """What it is worth for its device time."""
        return job.weight / (job.work_s or 1.0)

    def begin(self, now: float) -> None:
        """Judging begins, or goes on."""
        if now >= self._second + 1.0:
            self._second, self._played_before = now, self._planner.played
        self._begun = self._planner.played

    def tired(self) -> bool:
        """Whether so much was judged at a stretch that others should have their turn."""
        return self._planner.played - self._begun >= _STRETCH

    @property
    def _hurries(self) -> bool:
        return self._planner.played - self._played_before >= _BUDGET

    def judge(self, job: Job, now: float) -> Verdict:
        """What becomes of the job."""
        self._planner.searches_wide = not (self._hurries or self._policy.fillers.busy(now))
        if job.deadline is None:
            return Verdict(job)
        model = job.spec.parameters.model
        ready_s = None if self._planner.serves(model) else self._residency.ready_in(model)
        if ready_s is not None:
            return self._cold(job, ready_s, now)
        if self._policy.may_promise(job, now):
            if self._promise(job, now):
                return Verdict(job)
            if self._could_ever(job, now):
                self._policy.fillers.turn_away(now)
                self._shares.turn_away(now)
            if job.spec.deadline_policy is DeadlinePolicy.DEGRADE and self._degrade(job, now):
                return Verdict(
                    job, warning=("DEGRADED", f"{job.spec.parameters.steps} steps, so that the deadline is met")
                )
        if job.spec.deadline_policy is DeadlinePolicy.BEST_EFFORT:
            self._policy.hope(job)
            return Verdict(job)
        return self._refusal(job, now)

    def _cold(self, job: Job, ready_s: float, now: float) -> Verdict:
        """The job's model is not in memory, and can be in so many seconds."""
        if job.spec.deadline_policy is DeadlinePolicy.BEST_EFFORT:
            self._policy.hope(job)
            return Verdict(job)
        self._residency.refused(job.spec.parameters.model, now)
        alone_s = self._planner.alone_s(job.spec.parameters)
        offer = None
        if alone_s is not None:
            finish = now + ready_s + alone_s * _LONGER
            offer = CounterOffer(finish, tier=self._tier(job, finish - now))
        message = f"the model {job.spec.parameters.model} has to be loaded first: it is there in about {span(ready_s)}"
        return Verdict(job, Reason.DEADLINE_INFEASIBLE, message, max(ready_s, _LATER_S), offer)

    def _could_ever(self, job: Job, now: float) -> bool:
        """Whether it is for want of room that it cannot be promised: on an empty fleet it could be."""
        alone_s = self._planner.alone_s(job.spec.parameters)
        return alone_s is not None and job.deadline is not None and now + alone_s <= job.deadline

    def _promise(self, job: Job, now: float) -> bool:
        trials = self._trials(job, now)
        if trials is not None:
            self._policy.promise(job, trials, now)
        return trials is not None

    def _trials(self, job: Job, now: float) -> tuple[Trial, ...] | None:
        return self._planner.trials(job, now, workers=1 if self._hurries else 3)

    def _degrade(self, job: Job, now: float) -> bool:
        asked = job.spec
        steps = self._most_steps(job, max(asked.min_steps, asked.parameters.least_steps), now)
        if steps is None:
            return False
        self._take_steps(job, steps)
        return self._promise(job, now)

    def _most_steps(self, job: Job, least: int, now: float) -> int | None:
        """The most steps, fewer than asked for, that could be promised; None if even `least` could not."""
        asked = job.spec.parameters.steps
        low, high = least, asked - 1
        best = None
        try:
            for _ in range(_STEPS_TRIED):
                if low > high:
                    break
                steps = low if best is None else (low + high + 1) // 2
                self._take_steps(job, steps)
                if self._trials(job, now) is None:
                    if best is None:
                        break
                    high = steps - 1
                else:
                    best, low = steps, steps + 1
        finally:
            self._take_steps(job, asked)
        return best

    def _take_steps(self, job: Job, steps: int) -> None:
        job.take_steps(steps, self._planner.evaluations(job, steps))

    def _refusal(self, job: Job, now: float) -> Verdict:
        assert job.deadline is not None
        if self._planner.alone_s(job.spec.parameters) is None:
            return self._first_of_its_key(job)
        if not self._policy.may_promise(job, now):
            return Verdict(
                job, Reason.DEADLINE_INFEASIBLE, "others ask too, and its tenant has had its share", _PIONEER_S
            )
        self._planner.searches_wide = False  # as it will not, when the offer is taken up
        finish = self._earliest(job, now)
        if finish is None:
            return Verdict(job, Reason.DEADLINE_INFEASIBLE, "it cannot be promised by its deadline", _LATER_S)
        late_s = finish - job.deadline
        steps = None if self._hurries else self._most_steps(job, job.spec.parameters.least_steps, now)
        offer = CounterOffer(finish, steps, self._tier(job, finish - now))
        message = f"it cannot be promised by its deadline; as asked it could be done {late_s:.1f} s later"
        return Verdict(job, Reason.DEADLINE_INFEASIBLE, message, max(late_s, _LATER_S), offer)

    def _earliest(self, job: Job, now: float) -> float | None:
        """The earliest deadline found that could be promised (Unix seconds): what is offered has been tried."""
        asked, guess = job.deadline, self._planner.finish_without_promise(job, now)
        if asked is None or guess is None:
            return None
        wait_s = max(guess, asked) - now
        try:
            for _ in range(1 if self._hurries else _FINISHES_TRIED):
                wait_s *= _LONGER_AT_ONCE if self._hurries else _LONGER
                job.deadline = now + wait_s
                if self._trials(job, now) is not None:
                    return job.deadline
        finally:
            job.deadline = asked
        return None

    def _first_of_its_key(self, job: Job) -> Verdict:
        """Nothing is known of its costs, and nothing would ever be if all were refused: one at a time is accepted, and told so."""
        self._pioneers = {key: one for key, one in self._pioneers.items() if any(True for _ in one.unfinished())}
        if job.key not in self._pioneers:
            self._pioneers[job.key] = job
            return Verdict(job, warning=("COSTS_UNKNOWN", _COSTS_UNKNOWN))
        return Verdict(job, Reason.DEADLINE_INFEASIBLE, _COSTS_UNKNOWN, _PIONEER_S)

    def _tier(self, job: Job, needs_s: float) -> str | None:
        """The first tier whose default SLO is long enough; one without a deadline always is."""
        alone_s = self._planner.alone_s(job.spec.parameters)
        for tier in self._tiers:
            slo_s = slo_of(tier, alone_s)
            if tier.name != job.spec.tier and (slo_s is None or slo_s >= needs_s):
                return tier.name
        return None


def slo_of(tier: TierInfo, alone_s: float | None) -> float | None:
    """The tier's default in seconds; None if it has none, or it depends on costs that are not known."""
    if tier.slo_scale is not None:
        return None if alone_s is None else tier.slo_scale * alone_s
    return tier.slo_s
