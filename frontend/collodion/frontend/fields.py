"""Checks of single fields. Each adds what is wrong to one list, so that a caller hears of all of it at once."""

import math
import re
import struct
from collections.abc import Collection, Iterable, Mapping

from collodion.frontend.errors import CallError, Violation, invalid

DEFAULT_TENANT = "default"
TENANT_KEY = "x-collodion-tenant"
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LABEL_KEY = re.compile(r"[a-z0-9._-]{1,64}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MAX_LABELS = 16
_MAX_LABEL_VALUE = 256
_MAX_ID = 64
_LARGEST: float = struct.unpack("f", b"\xff\xff\x7f\x7f")[0]  # of 32-bit numbers


class Fields:
    """The violations of one request, and what it names that is not there."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self._absent: list[CallError] = []

    def wrong(self, field: str, description: str) -> None:
        """Notes a violation."""
        self.violations.append(Violation(field, description))

    def absent(self, error: CallError) -> None:
        """Notes that something well-formed names what is not there."""
        self._absent.append(error)

    def raise_violations(self) -> None:
        """Raises INVALID_ARGUMENT if anything is wrong."""
        if self.violations:
            raise invalid(self.violations)

    def raise_absent(self) -> None:
        """Raises the first error that was noted of what is not there."""
        if self._absent:
            raise self._absent[0]

    def number(self, field: str, value: float, low: float, high: float) -> None:
        """`value` is finite and within the bounds, both included."""
        if not (math.isfinite(value) and low <= value <= high):
            self.wrong(field, f"has to be {low:g} to {high:g}, not {value:g}")

    def whole(self, field: str, value: int, low: int, high: int) -> None:
        """`value` is within the bounds, both included."""
        if not low <= value <= high:
            self.wrong(field, f"has to be {low} to {high}, not {value}")

    def text(self, field: str, value: str, characters: int) -> None:
        """`value` has at most so many characters."""
        if len(value) > characters:
            self.wrong(field, f"has to have at most {characters} characters, not {len(value)}")

    def choice(self, field: str, value: int, known: Collection[int]) -> None:
        """`value` is one of the enum's numbers that are allowed."""
        if value not in known:
            self.wrong(field, f"{value} is none of {', '.join(map(str, sorted(known)))}")

    def identifier(self, field: str, value: str) -> None:
        """`value` is not empty."""
        if not value:
            self.wrong(field, "is required")

    def uuid(self, field: str, value: str) -> str:
        """`value` is empty or a UUID; returned in lower case, so that the same UUID is the same id."""
        if value and not _UUID.fullmatch(value):
            self.wrong(field, "has to be a UUID of the form 123e4567-e89b-12d3-a456-426614174000")
        return value.lower()

    def labels(self, field: str, labels: Mapping[str, str]) -> dict[str, str]:
        """`labels` are few, their keys plain and their values short."""
        if len(labels) > _MAX_LABELS:
            self.wrong(field, f"at most {_MAX_LABELS} labels, not {len(labels)}")
        for key, value in sorted(labels.items()):
            if not _LABEL_KEY.fullmatch(key):
                self.wrong(f"{field}[{key[:64]}]", "a key has to be 1 to 64 characters of [a-z0-9._-]")
            self.text(f"{field}[{key[:64]}]", value, _MAX_LABEL_VALUE)
        return dict(labels)

    def tenant(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
        """Who calls, by the metadata."""
        named = [value for key, value in metadata or () if key == TENANT_KEY]
        if not named:
            return DEFAULT_TENANT
        tenant = str(named[0])
        if len(named) > 1 or not _TENANT.fullmatch(tenant):
            self.wrong(f"metadata.{TENANT_KEY}", "has to be given once, as 1 to 64 characters of [A-Za-z0-9._-]")
        return tenant


def plausible(identifier: str) -> bool:
    """Whether an identifier is worth a question to the scheduler: all that we give out are short."""
    return 0 < len(identifier) <= _MAX_ID


def decimal(value: float) -> float:
    """The shortest decimal that a 32-bit `value` is nearest to: 0.7 and not 0.699999988079071. Who says 0.7 means it, and the number of
    steps that a strength leaves is rounded down.
    """
    for digits in range(1, 10):
        near = float(f"{value:.{digits}g}")
        if abs(near) <= _LARGEST and struct.pack("f", near) == struct.pack("f", value):
            return near
    return value


def listed(names: Iterable[str]) -> str:
    """Names for a sentence."""
    return ", ".join(names) or "none"
