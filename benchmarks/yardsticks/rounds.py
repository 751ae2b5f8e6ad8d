"""Whether one device can have all jobs of a problem on time: a model for the constraint solver CP-SAT.

The model. A schedule is a sequence of rounds. Round k is one step batch (some latents, one evaluation each); before it comes a gap in
which jobs are encoded, after it one in which latents are decoded. `start[k]` is when its step begins. `left[i][k]` are latent i's
evaluations before round k, `out[i][k]` says that it is not decoded before round k, `on[i][k]` that its job is encoded by round k's step.
Rounds without a step come last, and there are as many rounds as could fit between the first release and the last deadline.

What it allows beyond what a device can do, so that "no" is a proof and "yes" may be a little generous:

1. Ticks and padding (`ticks`, `curves`).
2. The jobs that are encoded in one gap take what one encode takes, however many and whenever in the gap they were released; a job's
   step begins no sooner than its release and that encode. (Nothing is lost by encoding in the last gap before a job's first step.)
3. The decodes of one gap take as much as the cheapest batches for so many. Each is done no sooner than cheapest batches for itself
   and those of the gap with deadlines before its own could be, by a line below their cost: in the order of deadlines, as an
   exchange of two decodes of a gap shows.

Redundant rows, without which proofs take hours. For a set of latents, batches with any of them take at least intercept + slope *
(how many of them) by a line below the step costs, and there are no fewer batches than the longest of them has evaluations:

4. From round k on: what is left of the latents due by some deadline fits between `start[k]` and that deadline, decodes included.
5. Until round k: what is done of the latents released from some moment on fits between that moment and `start[k]`.

Order. Take latents i before j (deadline, then evaluations), and suppose that at some round i is encoded and has no more left than j, and
that later j has fewer left than i. Where they are equal last before that, exchange their parts from there until they are equal
again, or to the end with their decodes: i is served sooner, j takes up i's part when it is encoded, and ends by i's deadline if by
i's decode. Every exchange serves earlier deadlines sooner, so they come to an end; hence some schedule has

6. for every pair: once i is encoded and has no more left than j, it stays so; and from the beginning if i is released no later and
   has no more evaluations (by 2, i may join the encode of j for nothing), and then i is decoded no later than j.
"""

from enum import Enum
from itertools import pairwise

from ortools.sat.python import cp_model

from yardsticks.curves import lines_below
from yardsticks.ticks import Latent, Problem

_SCALE = 100
"""Rows with slopes are multiplied by this, so that little is lost when coefficients are rounded down."""


class Verdict(Enum):
    """What the solver found out."""

    POSSIBLE = "possible"
    IMPOSSIBLE = "impossible"
    OPEN = "open"


def judge(problem: Problem, limit_s: float) -> Verdict:
    """Whether all jobs can be on time; open if `limit_s` seconds were not enough to know."""
    model = Rounds(problem)
    if model.rounds < max(latent.evaluations for latent in problem.latents):
        return Verdict.IMPOSSIBLE
    model.write()
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = limit_s
    solver.parameters.num_workers = 1  # how many problems are solved at a time is the caller's business
    solver.parameters.linearization_level = 2  # the rows of 4 and 5 do their work in the linear relaxation
    status = solver.solve(model.model)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Verdict.POSSIBLE
    return Verdict.IMPOSSIBLE if status == cp_model.INFEASIBLE else Verdict.OPEN


class Rounds:
    """The model; `write` it once."""

    def __init__(self, problem: Problem) -> None:
        self.model = cp_model.CpModel()
        self._problem = problem
        self._latents = problem.latents
        span = problem.ends - problem.begins - problem.encode - problem.decode[1]
        self.rounds = max(0, min(sum(each.evaluations for each in self._latents), span // problem.step[1]))
        self._lines = _two_lines(problem.step)
        self._decode_line = lines_below(problem.decode)[0]

    def write(self) -> None:
        """All variables and rows."""
        self._variables()
        for place, latent in enumerate(self._latents):
            self._follow(place, latent)
        for number in range(self.rounds):
            self._time(number)
            self._meet_deadlines(number)
        for number in range(self.rounds):
            self._look_ahead(number)
            self._look_back(number)
        for first in range(len(self._latents)):
            for second in range(first + 1, len(self._latents)):
                self._order(first, second)

    def _variables(self) -> None:
        model, problem, rounds, latents = self.model, self._problem, range(self.rounds), self._latents
        soonest = problem.begins + problem.encode
        self._start = [model.new_int_var(soonest + k * problem.step[1], problem.ends, f"start{k}") for k in rounds]
        self._encodes = [model.new_bool_var(f"encodes{k}") for k in rounds]
        self._steps = [[model.new_bool_var(f"step{i},{k}") for k in rounds] for i in range(len(latents))]
        self._on = [[model.new_bool_var(f"on{i},{k}") for k in rounds] for i in range(len(latents))]
        self._left = [
            [model.new_int_var(0, latent.evaluations, f"left{i},{k}") for k in range(self.rounds + 1)]
            for i, latent in enumerate(latents)
        ]
        self._out = [[model.new_bool_var(f"out{i},{k}") for k in range(self.rounds + 1)] for i in range(len(latents))]
        self._step_ticks: list[cp_model.LinearExprT] = []
        self._empty: list[cp_model.IntVar] = []

    def _follow(self, place: int, latent: Latent) -> None:
        """One latent from its encode to its decode."""
        model, left, out, on = self.model, self._left[place], self._out[place], self._on[place]
        model.add(left[0] == latent.evaluations)
        model.add(left[-1] == 0)
        model.add(out[0] == 1)
        model.add(out[-1] == 0)
        for number, step in enumerate(self._steps[place]):
            model.add(left[number + 1] == left[number] - step)
            model.add_implication(out[number + 1], out[number])
            model.add(left[number + 1] <= latent.evaluations * out[number + 1])
            model.add_implication(step, on[number])
            model.add(self._start[number] >= latent.release + self._problem.encode).only_enforce_if(on[number])
            if number:
                model.add_implication(on[number - 1], on[number])
                model.add_bool_or(~on[number], on[number - 1], self._encodes[number])
            else:
                model.add_implication(on[number], self._encodes[number])

    def _time(self, number: int) -> None:
        """A round begins when the one before it and the gap between them are over."""
        model, problem = self.model, self._problem
        sizes = self._sizes(sum(steps[number] for steps in self._steps), len(problem.step) - 1)
        decodes = self._sizes(
            sum(self._decoded(place, number) for place in range(len(self._latents))), len(problem.decode) - 1
        )
        model.add_implication(sizes[0], decodes[0])
        self._step_ticks.append(sum(cost * size for cost, size in zip(problem.step, sizes, strict=True)))
        over = self._start[number] + self._step_ticks[-1]
        over += sum(cost * size for cost, size in zip(problem.decode, decodes, strict=True))
        if number + 1 < self.rounds:
            model.add(self._start[number + 1] >= over + problem.encode * self._encodes[number + 1])
        if number:
            model.add_implication(self._empty[-1], sizes[0])
        self._empty.append(sizes[0])

    def _sizes(self, count: cp_model.LinearExprT, most: int) -> list[cp_model.IntVar]:
        """One of these is true: the one at the place of the count."""
        chosen = [self.model.new_bool_var("") for _ in range(most + 1)]
        self.model.add_exactly_one(chosen)
        self.model.add(sum(size * each for size, each in enumerate(chosen)) == count)
        return chosen

    def _decoded(self, place: int, number: int) -> cp_model.LinearExprT:
        """1 if the latent is decoded in the gap after this round."""
        return self._out[place][number] - self._out[place][number + 1]

    def _meet_deadlines(self, number: int) -> None:
        intercept, slope = self._decode_line
        before: cp_model.LinearExprT = 0
        for place, latent in enumerate(self._latents):
            before += self._decoded(place, number)
            done = self._start[number] + self._step_ticks[number] + int(intercept) + int(slope) * before
            self.model.add(done <= latent.deadline).only_enforce_if(
                self._out[place][number], ~self._out[place][number + 1]
            )

    def _look_ahead(self, number: int) -> None:
        """Rule 4, for every deadline and every latent due by it that is not decoded yet."""
        base, slope = (int(_SCALE * each) for each in self._decode_line)
        for last, latent in enumerate(self._latents):
            spare = self._problem.ends - latent.deadline
            for intercept, each in self._lines:
                due = sum(
                    int(_SCALE * each) * self._left[place][number] + slope * self._out[place][number]
                    for place in range(last + 1)
                )
                for place in range(last + 1) if intercept else [last]:
                    out = self._out[place][number]
                    ends = (
                        _SCALE * self._start[number]
                        + due
                        + int(_SCALE * intercept) * self._left[place][number]
                        + base * out
                    )
                    self.model.add(ends <= _SCALE * latent.deadline + (_SCALE * spare + base) * (1 - out))

    def _look_back(self, number: int) -> None:
        """Rule 5, for every release and every latent released from then on."""
        for moment in {latent.release for latent in self._latents}:
            later = [place for place, latent in enumerate(self._latents) if latent.release >= moment]
            since = _SCALE * (moment + self._problem.encode)
            for intercept, slope in self._lines:
                done = sum(int(_SCALE * slope) * self._done(place, number) for place in later)
                for place in later if intercept else later[:1]:
                    longest = int(_SCALE * intercept) * self._done(place, number)
                    self.model.add(_SCALE * self._start[number] >= since * self._on[place][number] + longest + done)

    def _done(self, place: int, number: int) -> cp_model.LinearExprT:
        return self._latents[place].evaluations - self._left[place][number]

    def _order(self, first: int, second: int) -> None:
        """Rule 6."""
        model, one, other = self.model, self._latents[first], self._latents[second]
        if one.evaluations <= other.evaluations and one.release <= other.release:
            for mine, theirs in zip(self._left[first], self._left[second], strict=True):
                model.add(mine <= theirs)
            for mine, theirs in zip(self._out[first], self._out[second], strict=True):
                model.add_implication(mine, theirs)
            return
        ahead = [model.new_bool_var(f"ahead{first},{second},{number}") for number in range(self.rounds)]
        for number, is_ahead in enumerate(ahead):
            mine, theirs = self._left[first], self._left[second]
            encoded = self._on[first][number]
            model.add(mine[number] >= theirs[number] + 1).only_enforce_if(~is_ahead, encoded)
            model.add(mine[number] <= theirs[number]).only_enforce_if(is_ahead)
            model.add(mine[number + 1] <= theirs[number + 1]).only_enforce_if(is_ahead)
            model.add_implication(is_ahead, encoded)
        for sooner, later in pairwise(ahead):
            model.add_implication(sooner, later)


def _two_lines(step: tuple[int, ...]) -> list[tuple[float, float]]:
    """The line below that has the highest intercept, and the one through 0: those between cost more time than they save."""
    lines = lines_below(step)
    return lines if len(lines) == 1 else [lines[0], lines[-1]]
