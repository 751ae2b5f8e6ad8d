"""Modules of diffusers and transformers, built empty from their configuration and filled with tensors that were read.

Not by `from_pretrained`: it changes settings of the whole process while it builds (torch's default dtype, patches of torch and
of modules), and a loader runs beside the device thread. What it knows of old names and of what stays in float32 is used all the same.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
import transformers
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import logging as diffusers_logging
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging as transformers_logging

from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.registry.sources import Part

_MOST_LAYERS = 1000
_WIDEST = 10_000_000
FOREIGN = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
    OSError,
    ImportError,
)
"""What foreign constructors raise at a configuration that makes no sense."""


def quieten() -> None:
    """Neither progress bars nor advice on standard error; what matters is said by us."""
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def class_of(part: Part) -> Any:
    """The part's class, which has to be one of the library's own. Raises ModelUnusable."""
    library = diffusers if part.library == "diffusers" else transformers
    found = getattr(library, part.class_name, None)
    kinds = (
        (diffusers.ModelMixin, SchedulerMixin)
        if part.library == "diffusers"
        else (transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase, transformers.ProcessorMixin)
    )
    if not isinstance(found, type) or not issubclass(found, kinds):
        raise ModelUnusable(
            f"its {part.name} is a {part.class_name}, which this version's {part.library} does not have"
        )
    return found


def kept_in_float32(kind: Any, dtype: torch.dtype) -> tuple[str, ...]:
    """The parts of tensors' names that stay in float32 when the rest is `dtype`."""
    usual = getattr(kind, "_keep_in_fp32_modules", None) if dtype == torch.float16 else None
    strict = getattr(kind, "_keep_in_fp32_modules_strict", None) if dtype != torch.float32 else None
    return (*_several(usual), *_several(strict))


def build(part: Part, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """An empty module: its parameters have shape and dtype, and no memory. Raises ModelUnusable."""
    kind = class_of(part)
    _check_counts(part, config)
    try:
        with _without_memory(dtype):
            if part.library == "diffusers":
                return kind.from_config(dict(config))
            return kind(kind.config_class.from_dict(dict(config)))
    except FOREIGN as error:
        raise ModelUnusable(f"its {part.name} cannot be built from its configuration: {first_line(error)}") from error


def fill(part: Part, module: Any, tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Gives an empty module its tensors, as they are stored by the library that it is of. Raises ModelUnusable."""
    if part.library == "diffusers":
        module._fix_state_dict_keys_on_load(tensors)
        assign(part, module, tensors)
        return
    plan = module._get_dtype_plan(dtype)
    load = LoadStateDictConfig(dtype=dtype, dtype_plan=plan, weight_mapping=get_model_conversion_mapping(module))
    try:
        said, _ = convert_and_load_state_dict_in_model(module, tensors, load)
        module.tie_weights(missing_keys=said.missing_keys, recompute_mapping=False)
        module._adjust_missing_and_unexpected_keys(said)
    except FOREIGN as error:
        raise ModelUnusable(f"its {part.name} does not fit its configuration: {first_line(error)}") from error
    if said.mismatched_keys:
        name, there, wanted = sorted(said.mismatched_keys)[0]
        raise _wrong_shape(part, name, there, wanted)
    _check_whole(part, said.missing_keys)
    _finish(part, module)


def assign(part: Part, module: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """The same for tensors that are named as the module names them; others are left out. Raises ModelUnusable."""
    wanted = module.state_dict()
    _check_whole(part, wanted.keys() - tensors.keys())
    for name, empty in wanted.items():
        if tensors[name].shape != empty.shape:
            raise _wrong_shape(part, name, tensors[name].shape, empty.shape)
    ours = {name: tensors[name].to(empty.dtype) for name, empty in wanted.items()}
    module.load_state_dict(ours, assign=True)
    _finish(part, module)


def _finish(part: Part, module: Any) -> None:
    empty = [name for name, parameter in module.named_parameters() if parameter.is_meta]
    _check_whole(part, empty)
    module.requires_grad_(requires_grad=False)
    module.eval()


def _check_whole(part: Part, missing: Any) -> None:
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelUnusable(f"its {part.name} lacks {min(missing)}{more}")


def _wrong_shape(part: Part, name: str, there: Any, wanted: Any) -> ModelUnusable:
    return ModelUnusable(f"its {part.name}: {name} has shape {list(there)} where {list(wanted)} is wanted")


class _Building(threading.local):
    """What this thread is building; None if it is not."""

    dtype: torch.dtype | None = None


_building = _Building()


def _emptied(_module: torch.nn.Module, _name: str, parameter: Any) -> Any:
    if _building.dtype is None or parameter is None:
        return None
    wanted = _building.dtype if parameter.is_floating_point() else parameter.dtype
    return torch.nn.Parameter(torch.empty_like(parameter, device="meta", dtype=wanted), requires_grad=False)


# Once and for good: a hook that comes and goes would be seen to do so by threads that are registering parameters.
register_module_parameter_registration_hook(_emptied)


@contextmanager
def _without_memory(dtype: torch.dtype) -> Iterator[None]:
    """Parameters that this thread registers meanwhile get no memory; floating ones are of `dtype`. Other threads notice nothing."""
    _building.dtype = dtype
    try:
        yield
    finally:
        _building.dtype = None


def _check_counts(part: Part, config: Any, depth: int = 0) -> None:
    """A configuration can ask for a billion layers, which would take an hour to be refused by the lack of their weights."""
    if depth > 8:
        raise ModelUnusable(f"its {part.name} has a configuration that is nested too deeply")
    for key, value in config.items():
        if isinstance(value, dict):
            _check_counts(part, value, depth + 1)
        for number in value if isinstance(value, list) else [value]:
            bound = _MOST_LAYERS if "layers" in key or "depth" in key else _WIDEST
            if type(number) is int and abs(number) > bound:
                raise ModelUnusable(f"its {part.name} has {key[:100]} = {number} in its configuration")


def _several(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def first_line(error: Exception) -> str:
    """What a foreign error says, for a sentence of ours."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
