"""Numbers and lists as people read them, in what the scheduler explains."""

import datetime
from collections.abc import Sequence


def span(seconds: float) -> str:
    """A duration, as exact as anybody wants to know it: 0.05 s, 1.2 s, 42 s, 12 min, 3 h."""
    if seconds < 0.0995:
        return f"{max(0.0, seconds):.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def mebibytes(size_bytes: int) -> str:
    """A size in memory: 0.4 MiB, 870 MiB, 6.5 GiB."""
    mib = size_bytes / (1 << 20)
    if mib < 1000:
        return f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"
    return f"{mib / 1024:.1f} GiB"


def moment(time: float) -> str:
    """A time (Unix seconds) of the day. In UTC: where the reader is, is not known."""
    return datetime.datetime.fromtimestamp(time, datetime.UTC).strftime("%H:%M:%S UTC")


def counted(count: int, one: str, more: str) -> str:
    """1 step, 2 steps."""
    return f"{count} {one if count == 1 else more}"


def listed(parts: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)
