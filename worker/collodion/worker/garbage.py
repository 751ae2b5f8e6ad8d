"""Python's garbage collector, told what it need not look at; and memory that is free, given back to the system.

What a model is made of is freed at once when it leaves, by its count of references (a test holds the families to that); the collector is
only for what libraries leave. By itself it would walk through all that torch and diffusers consist of, half a million objects, whenever
a model is loaded: half a second in which no step begins, since nothing else of Python's runs meanwhile.
"""

import contextlib
import ctypes
import gc

_YOUNG = 700  # Python's own
_YOUNG_BEFORE_MIDDLE = 10  # Python's own
_MIDDLE_BEFORE_ALL = 10_000


def keep_collections_short() -> None:
    """What there is by now is never looked at again, the rest rarely. At the start, and after each load; then it takes some ms."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _YOUNG_BEFORE_MIDDLE, _MIDDLE_BEFORE_ALL)


def give_back_freed_memory() -> None:
    """Has the C library return what it keeps of freed memory: of a model on a CPU, most. (glibc; others do so by themselves.)"""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
