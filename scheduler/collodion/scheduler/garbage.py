"""Python's garbage collector, told what it need not look at.

What the core drops is freed at once, by its count of references: it leaves no circles behind, and a test holds it to that. The collector
is only for what libraries leave. By itself it would walk through all that is alive every few thousand jobs: with 10,000 of them waiting
that takes 0.1 s, in which nobody is heard (`benchmarks/scheduler_cpu.py --pythons-collector`).
"""

import gc

_YOUNG = 700  # Python's own: a collection of so few takes 0.1 to 0.4 ms
_YOUNG_BEFORE_MIDDLE = 3  # of Python's 10: those of the middle generation are short, too
_MIDDLE_BEFORE_ALL = 100_000  # hours of a busy scheduler


def keep_collections_short() -> None:
    """What there is by now is never looked at again, and all of the rest very rarely. Once a process has started, before it serves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _YOUNG_BEFORE_MIDDLE, _MIDDLE_BEFORE_ALL)
