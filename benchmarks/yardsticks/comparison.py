"""How much of the optimum schedulers reach on tiny instances."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from simulation.running import run
from simulation.study import Contender
from simulation.tables import markdown
from simulation.world import Conditions
from yardsticks.store import Known
from yardsticks.tiny import Tiny


@dataclass(frozen=True, slots=True)
class Score:
    """What one scheduler reached on one instance, beside `most`, which nothing exceeds."""

    tiny: Tiny
    label: str
    worth: float
    most: float

    @property
    def share(self) -> float:
        """Of the optimum; 1 of nothing."""
        return self.worth / self.most if self.most else 1.0

    @property
    def lost(self) -> float:
        """What the optimum has more."""
        return self.most - self.worth


def score(tiny: Tiny, known: Known, contender: Contender, conditions: Conditions) -> Score:
    """Simulates. Fails if the scheduler does better than is possible."""
    result = run(tiny.instance, contender.config, conditions)
    worth = sum(tiny.instance.requests[record.index].weight for record in result.records if record.on_time)
    assert worth <= known.most, f"{contender.label} reaches {worth} of {known.most} on {tiny.name}"
    return Score(tiny, contender.label, worth, known.most)


def table(scores: Sequence[Score]) -> str:
    """Of one kind of instances: a row for each scheduler."""
    rows = []
    for label in dict.fromkeys(each.label for each in scores):
        own = [each for each in scores if each.label == label]
        rows.append(
            [
                label,
                f"{100 * statistics.fmean(each.share for each in own):.1f}",
                f"{100 * min(each.share for each in own):.1f}",
                f"{sum(not each.lost for each in own)} of {len(own)}",
                f"{max(each.lost for each in own):g}",
                f"{sum(each.lost for each in own):g}",
            ]
        )
    titles = ["policy", "of the optimum, %, mean", "least", "optimal in", "jobs lost, at most", "jobs lost, in all"]
    return markdown(titles, rows)
