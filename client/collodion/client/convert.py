"""Small conversions between protobuf's types and Python's: times are aware datetimes in UTC, durations are
seconds."""

import datetime
import struct
from enum import StrEnum
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

Word = TypeVar("Word", bound=StrEnum)


def time_of(message: Message, field: str) -> datetime.datetime | None:
    """The time in `field`, None where it is unset."""
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(datetime.UTC)


def seconds_of(duration: Duration) -> float:
    """A duration in seconds."""
    return duration.ToNanoseconds() / 1e9


def decimal_of(value: float) -> float:
    """The shortest decimal that a number of 32 bits is nearest to: 0.7 and not 0.699999988079071, so that 0.7 comes back as it was sent."""
    for digits in range(6, 9):
        near = float(f"{value:.{digits}g}")
        if struct.pack("f", near) == struct.pack("f", value):
            return near
    return value


def word_of(words: type[Word], number: int) -> Word:
    """The member of `words` for a protobuf enum's number, which is its place; UNSPECIFIED for an unknown one."""
    members = tuple(words)
    return members[number] if 0 <= number < len(members) else members[0]


def number_of(word: StrEnum) -> int:
    """The protobuf enum's number of a word."""
    return tuple(type(word)).index(word)
