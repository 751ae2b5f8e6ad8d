"""Configuration: one frozen dataclass per process, from which flags, environment variables and TOML keys are made.

1. Precedence: flag, environment, TOML file, default.
2. `--max-batch`, `COLLODION_WORKER_MAX_BATCH` and `max_batch` under `[worker]` are one setting.
3. An unknown key, anywhere, is an error, and so is a value out of bounds: it ends the process with exit code 2 and a sentence.
"""

import argparse
import dataclasses
import os
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

Config = TypeVar("Config")


class ConfigError(ValueError):
    """A setting is unknown, or its value cannot be used; the message names the setting."""


def setting(default: Any, help: str, *, low: float | None = None, high: float | None = None) -> Any:  # noqa: A002
    """A field with its help: one sentence that says what goes wrong at its extremes. Bounds are inclusive."""
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high})


def load(cls: type[Config], process: str, argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration of `process` (worker, scheduler, frontend). Exits with code 2 and a sentence if it is unusable."""
    parser = _parser(cls, process)
    flags = vars(parser.parse_args(argv))
    try:
        file = flags.pop("config") or environ.get("COLLODION_CONFIG")
        return cls(**_merge(cls, process, flags, environ, Path(file) if file else None))
    except ConfigError as error:
        parser.error(str(error))


def _merge(
    cls: type[Any], process: str, flags: Mapping[str, str | None], environ: Mapping[str, str], file: Path | None
) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}
    merged: dict[str, tuple[str, Any]] = {}
    for name, value in _from_file(file, process).items():
        merged[name] = (f"{file}: [{process}] {name}", value)
    prefix = f"COLLODION_{process.upper()}_"
    for variable, value in environ.items():
        if variable.startswith(prefix):
            merged[variable.removeprefix(prefix).lower()] = (variable, value)
    merged |= {name: (f"--{_dashed(name)}", value) for name, value in flags.items() if value is not None}
    for name, (source, _) in merged.items():
        if name not in known:
            raise ConfigError(f"{source} is no setting of the {process}; known: {', '.join(sorted(known))}")
    return {
        name: _bounded(known[name], source, _parse(hints[name], source, value))
        for name, (source, value) in merged.items()
    }


def _from_file(file: Path | None, process: str) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        tables = tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error
    unknown = tables.keys() - {"frontend", "scheduler", "worker"}
    if unknown:
        raise ConfigError(f"{file}: [{unknown.pop()}] is no process; known: frontend, scheduler, worker")
    table = tables.get(process, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: {process} has to be a table")
    return table


def _parse(hint: Any, source: str, value: Any) -> Any:
    """`value` (text, or what TOML gave) as the type that the field declares."""
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    if isinstance(hint, types.UnionType):
        return None if value in ("", "none") else _parse(options[0], source, value)
    try:
        if typing.get_origin(hint) is tuple:
            items = value.split(",") if isinstance(value, str) else value
            return tuple(_parse(options[0], source, item) for item in items if item != "")
        if hint is bool:
            return _boolean(value)
        if hint is int or hint is float:
            return _number(hint, value)
        if isinstance(hint, type) and issubclass(hint, Enum | Path | str):
            return hint(value)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{source}: {value!r} is not {_expected(hint)}") from error
    raise AssertionError(f"no rule for {hint}")


def _boolean(value: Any) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise ValueError(value)
    return words[str(value).lower()]


def _number(hint: type[int] | type[float], value: Any) -> float:
    # TOML has types of its own, and int() would take 1.5 and true.
    if isinstance(value, bool) or not isinstance(value, str | int | hint):
        raise TypeError(value)
    return hint(value)


def _expected(hint: Any) -> str:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(
        hint, f"a {getattr(hint, '__name__', hint)}"
    )


def _bounded(field: "dataclasses.Field[Any]", source: str, value: Any) -> Any:
    low, high = field.metadata.get("low"), field.metadata.get("high")
    # Written so that NaN is refused too.
    if value is not None and ((low is not None and not value >= low) or (high is not None and not value <= high)):
        raise ConfigError(
            f"{source}: {value} is out of bounds ({low if low is not None else '…'} to {high if high is not None else '…'})"
        )
    return value


def _parser(cls: type[Any], process: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,  # half a name is an unknown key
        prog=f"python -m collodion.{process}",
        description=f"{(cls.__doc__ or '').strip().splitlines()[0]} Every flag is also COLLODION_{process.upper()}_… in the environment.",
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with a table for each process")
    for field in dataclasses.fields(cls):
        default = "none" if field.default is None else _text(field.default)
        parser.add_argument(
            f"--{_dashed(field.name)}",
            metavar="VALUE",
            help=f"{field.metadata['help']} (default: {default})".replace("%", "%%"),
        )
    return parser


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _dashed(name: str) -> str:
    return name.replace("_", "-")
