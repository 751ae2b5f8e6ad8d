"""Python's garbage collector, told what it need not look at.

What a model is made of is freed at once when it leaves, by its count of references (a test holds the families to that); the collector is
only for what libraries leave. By itself it would walk through all that torch and diffusers consist of, half a million objects, whenever
a model is loaded: half a second in which no step begins, since nothing else of Python's runs meanwhile.
"""

import gc

_YOUNG = 700  # Python's own
_YOUNG_BEFORE_MIDDLE = 10  # Python's own
_MIDDLE_BEFORE_ALL = 10_000


def keep_collections_short() -> None:
    """What there is by now is never looked at again, the rest rarely. At the start, and after each load; then it takes some ms."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _YOUNG_BEFORE_MIDDLE, _MIDDLE_BEFORE_ALL)
