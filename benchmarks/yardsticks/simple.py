"""The simple bound: one linear programme over the whole time, as in `scheduling.md`.

Variables: z_j, job j is on time (0 to 1), and y_gcb, batches of key c and size b on a device of group g. Take any schedule and strike
from its batches all members whose job is late: as costs are padded (`curves`) no batch becomes longer. What remains obeys

- members: the batches of a key have as many members as its on-time jobs have evaluations;
- device time: batches, encodes and decodes fit into the devices' time from the first release to the last deadline;
- presence: a latent is in one batch at a time, and only while its job's window is open. So the members' time, the sum of b * L(b) over
  all batches of a key, is the sum over its on-time latents of their windows' lengths at most.

z_j = 1 for the on-time jobs and the y of that schedule satisfy all three, so no schedule is worth more than the maximum.
"""

from collections.abc import Sequence

from yardsticks.curves import corners
from yardsticks.programme import Programme
from yardsticks.windows import Group, Window


def simple_bound(windows: Sequence[Window], groups: Sequence[Group], weights: Sequence[float]) -> float:
    """The sum of weights of on-time jobs at most. `weights` are by a job's index in its instance."""
    if not windows:
        return 0.0
    programme = Programme()
    on_time = [programme.variable(1.0, weights[window.index]) for window in windows]
    span_s = max(window.deadline for window in windows) - min(window.release for window in windows)
    taken = [(z, window.beside_s) for z, window in zip(on_time, windows, strict=True)]
    for key in dict.fromkeys(window.key for window in windows):
        theirs = [(z, window) for z, window in zip(on_time, windows, strict=True) if window.key == key]
        members = [(z, -float(window.latent_evaluations)) for z, window in theirs]
        presence = [(z, -window.images * (window.closes - window.opens)) for z, window in theirs]
        for curves in (group.curves[key] for group in groups if key in group.curves):
            for size in corners(curves.step):
                batches = programme.variable()
                members.append((batches, float(size)))
                presence.append((batches, size * curves.step[size]))
                taken.append((batches, curves.step[size]))
        programme.equal(members, 0.0)
        programme.at_most(presence, 0.0)
    programme.at_most(taken, span_s * sum(group.devices for group in groups))
    return programme.maximum()
