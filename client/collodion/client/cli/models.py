"""`collodion models`, `models describe`, `models load`, `models unload`, `adapters`: what there is to draw with, and where it is."""

import argparse
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from collodion.client.cli.foreign import shown
from collodion.client.cli.tables import client_of, marked, print_facts, print_lines, print_table
from collodion.client.models import Adapter, Model, ModelStatus, Optimization, Residency

_WHERE = {Residency.RESIDENT: "in memory", Residency.ON_DISK: "on disk", Residency.UNSPECIFIED: "nowhere now"}
_MIB = 1 << 20


def models(arguments: argparse.Namespace) -> None:
    """Lists models, describes one, loads one or unloads one."""
    {None: _list, "describe": _describe, "load": _load, "unload": _unload}[arguments.action](arguments)


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
        headings = ("model", "family", "where", "memory", "size", "steps", "samplers", "takes")
        print_table(headings, [_row(model) for model in listed])


def _describe(arguments: argparse.Namespace) -> None:
    with client_of(arguments) as client:
        model = client.model(arguments.name)
    if arguments.json:
        print_lines([model])
        return
    print_facts([(name, text) for name, text in _facts(model) if text])
    if model.status.optimizations:
        print()
        rows = [_optimization_row(one) for one in model.status.optimizations]
        print_table(("optimisation", "value", "detail"), rows)


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
    name = marked(model.name, model.is_default)
    where, memory = _where(model.status), _mebibytes(model.status.size_bytes)
    return (
        name,
        model.family,
        where,
        memory,
        _size(model),
        str(model.default_steps or ""),
        ", ".join(model.samplers),
        _taken(model),
    )


def _facts(model: Model) -> Iterator[tuple[str, str]]:
    """What is known of a model, the heading of each fact before it; empty where nothing is."""
    status = model.status
    yield "name", marked(model.name, model.is_default)
    yield "family", model.family
    yield "adapters", f"made for {model.base}" if model.base else ""
    yield "where", _where(status)
    yield "memory", _mebibytes(status.size_bytes)
    yield "load time", "" if status.load_s is None else f"{status.load_s:.3g} s"
    yield "workers", str(model.workers or "")
    yield "dtype", model.dtype
    yield (
        "size",
        f"{_size(model)}, {model.min_size} to {model.max_size} by {model.size_multiple}" if _size(model) else "",
    )
    yield "steps", f"{model.default_steps}, at most {model.max_steps}" if model.max_steps else ""
    yield "guidance", f"{model.default_guidance_scale:g}" if model.family else ""
    yield "tokens", str(model.max_prompt_tokens or "")
    yield "samplers", ", ".join(model.samplers)
    yield "refused", "; ".join(f"{name}: {why}" for name, why in model.refused_samplers.items())
    yield "takes", _taken(model)
    yield "license", model.license
    yield "optimisations", _unoptimised(model)


def _unoptimised(model: Model) -> str:
    """Why no optimisation can be told of; empty if some can, or if nothing is known of the model."""
    if model.status.optimizations or not model.family:
        return ""
    return "none" if model.status.residency is Residency.RESIDENT else "told once it is in memory"


def _taken(model: Model) -> str:
    """What a request may have beside its prompt, as the flags of `collodion generate` are called."""
    flags = {
        "init-image": model.init_images,
        "mask": model.masks,
        "lora": model.loras,
        "weighted": model.weighted_prompts,
        "step-cache": model.step_cache,
    }
    return ", ".join(flag for flag, taken in flags.items() if taken)


def _size(model: Model) -> str:
    return f"{model.native_width}×{model.native_height}" if model.native_width else ""


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


def _optimization_row(optimization: Optimization) -> tuple[str, ...]:
    return optimization.name, optimization.value, optimization.detail


def _mebibytes(size_bytes: int) -> str:
    """Empty where it is not known."""
    if size_bytes >= 1024 * _MIB:
        return f"{size_bytes / 1024 / _MIB:.1f} GiB"
    return f"{size_bytes / _MIB:.1f} MiB" if size_bytes else ""
