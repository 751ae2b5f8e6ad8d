"""`collodion models`, `models load`, `models unload`, `adapters`: what there is to draw with, and where it is."""

import argparse
import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from collodion.client.cli.foreign import shown
from collodion.client.cli.tables import client_of, marked, print_lines, print_table
from collodion.client.models import Adapter, Model, ModelStatus, Residency

_WHERE = {Residency.RESIDENT: "in memory", Residency.ON_DISK: "on disk", Residency.UNSPECIFIED: "nowhere now"}
_MIB = 1 << 20


def models(arguments: argparse.Namespace) -> None:
    """Lists models, loads one or unloads one."""
    {None: _list, "load": _load, "unload": _unload}[arguments.action](arguments)


def adapters(arguments: argparse.Namespace) -> None:
    """Lists adapters."""
    with client_of(arguments) as client:
        listed = client.adapters()
    if arguments.json:
        print_lines(listed)
    else:
        print_table(("adapter", "kind", "for", "file"), [_adapter_row(adapter) for adapter in listed])


def _list(arguments: argparse.Namespace) -> None:
    with client_of(arguments) as client:
        listed = client.models()
    if arguments.json:
        print_lines(listed)
    else:
        headings = ("model", "family", "where", "memory", "size", "steps", "samplers")
        print_table(headings, [_row(model) for model in listed])


def _load(arguments: argparse.Namespace) -> None:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    moves = console.is_terminal and not arguments.json
    with client_of(arguments) as client, Progress(*columns, console=console, transient=True, disable=not moves) as bar:
        task = bar.add_task(shown(arguments.name), total=1.0)

        def show(model: Model) -> None:
            bar.update(task, completed=model.status.progress, description=shown(f"{model.name} {_where(model.status)}"))

        loaded = client.load_model(arguments.name, wait=arguments.wait, timeout_s=arguments.patience, on_progress=show)
    _say(arguments, loaded)


def _unload(arguments: argparse.Namespace) -> None:
    with client_of(arguments) as client:
        _say(arguments, client.unload_model(arguments.name))


def _say(arguments: argparse.Namespace, model: Model) -> None:
    if arguments.json:
        print_lines([model])
    elif arguments.action == "unload" and model.status.residency is Residency.RESIDENT:
        print(shown(f"{model.name} leaves the memory when nothing runs on it any more"))
    else:
        print(shown(f"{model.name} is {_where(model.status)}"))
    sys.stdout.flush()


def _row(model: Model) -> tuple[str, ...]:
    size = f"{model.native_width}×{model.native_height}" if model.native_width else ""
    name = marked(model.name, model.is_default)
    where, memory = _where(model.status), _mebibytes(model.status.size_bytes)
    return name, model.family, where, memory, size, str(model.default_steps or ""), ", ".join(model.samplers)


def _where(status: ModelStatus) -> str:
    if status.residency is Residency.LOADING:
        said = f"loading, {status.progress:.0%}"
    elif status.residency is Residency.FAILED:
        said = f"unusable: {status.failure}"
    else:
        said = _WHERE[status.residency]
    return f"{said} (pinned)" if status.pinned else said


def _adapter_row(adapter: Adapter) -> tuple[str, ...]:
    return adapter.name, adapter.kind.value.replace("_", " "), adapter.base or "?", _mebibytes(adapter.size_bytes)


def _mebibytes(size_bytes: int) -> str:
    """Empty where it is not known."""
    if size_bytes >= 1024 * _MIB:
        return f"{size_bytes / 1024 / _MIB:.1f} GiB"
    return f"{size_bytes / _MIB:.1f} MiB" if size_bytes else ""
