"""Optima that are known already, in a file: solving takes minutes, and has to be done once.

An entry belongs to an instance by its fingerprint, so that an instance that is drawn otherwise is solved anew.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from simulation.instance import Instance
from yardsticks.optimum import optimum_of
from yardsticks.simple import simple_bound
from yardsticks.timed import timed_bound
from yardsticks.tiny import Tiny
from yardsticks.windows import groups_of, windows_of


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an instance: between `worth` (reached by `jobs`) and `most` lies the optimum; what the linear programmes say.

    `limit_s` is the solver's time for each of the `judged` selections.
    """

    name: str
    fingerprint: str
    worth: float
    most: float
    jobs: tuple[int, ...]
    simple: float
    timed: float
    judged: int
    limit_s: float

    @property
    def proven(self) -> bool:
        """Whether `most` is reached."""
        return self.worth == self.most


class Store:
    """The file; it is written whenever something is added."""

    def __init__(self, path: Path) -> None:
        self._path = path
        rows = json.loads(path.read_text())["optima"] if path.exists() else []
        self._known = {row["fingerprint"]: Known(**{**row, "jobs": tuple(row["jobs"])}) for row in rows}

    def get(self, tiny: Tiny, limit_s: float) -> Known | None:
        """None if it is not known, or not proven and now there is more time."""
        known = self._known.get(fingerprint(tiny.instance))
        return known if known and (known.proven or known.limit_s >= limit_s) else None

    def add(self, known: Known) -> None:
        """Adds or replaces."""
        self._known[known.fingerprint] = known
        rows = ",\n  ".join(json.dumps(asdict(each)) for each in self._known.values())
        self._path.write_text(f'{{"optima": [\n  {rows}\n]}}\n')


def solve(tiny: Tiny, limit_s: float) -> Known:
    """Finds out."""
    instance = tiny.instance
    groups = groups_of(instance.devices)
    windows = windows_of(instance, groups)
    weights = [each.weight for each in instance.requests]
    found = optimum_of(instance, limit_s)
    return Known(
        tiny.name,
        fingerprint(instance),
        found.worth,
        found.most,
        found.jobs,
        simple_bound(windows, groups, weights),
        timed_bound(windows, groups, weights),
        found.judged,
        limit_s,
    )


def fingerprint(instance: Instance) -> str:
    """The same for instances that are the same."""
    return hashlib.sha256(repr(instance).encode()).hexdigest()[:16]
