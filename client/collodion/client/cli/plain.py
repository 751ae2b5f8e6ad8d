"""Values as JSON lines: what has bytes leaves them out, times are ISO 8601 in UTC."""

import dataclasses
import datetime
import json
import re
from collections.abc import Mapping
from typing import Any

import grpc

from collodion.client.events import Event


def line(**facts: Any) -> str:
    """One JSON line."""
    return json.dumps(_plain(facts), ensure_ascii=False)


def event_line(event: Event, **more: Any) -> str:
    """An event as one line: `event` is its name in snake case, and `more` is added to its own fields."""
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
    return line(event=name, **fields_of(event), **more)


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, without bytes."""
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {name: item for name, item in fields.items() if not isinstance(item, bytes)}


def _plain(value: Any) -> Any:
    match value:
        case datetime.datetime():
            return value.isoformat()
        case grpc.StatusCode():
            return value.name
        case Mapping():
            return {key: _plain(item) for key, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case _ if dataclasses.is_dataclass(value):
            return _plain(fields_of(value))
        case _:
            return value
